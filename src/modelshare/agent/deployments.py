"""Applies the server's desired state on this machine and reports the results."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from modelshare.agent.deployment import RETRY_CAP, RETRY_FIRST, Deployment, DeploymentContext, Serving
from modelshare.agent.desired import plan
from modelshare.agent.errors import DeploymentError
from modelshare.transfer.tasks import in_thread
from modelshare.wire.backoff import Backoff
from modelshare.wire.link import DeploymentLoad, Desired, DesiredDeployment, Frame, Released

_log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 30.0
"""How long requests in progress may take when the agent stops."""
RELEASE_SECONDS: Final = 1800.0
"""How long they may take when their deployment is removed, for example by a new version: the longest timeout of any
tier. The deployment ends as soon as none is left, and the server cancels those whose client has disconnected."""


class Deployments:
    """Runs one supervisor per desired deployment. `send` returns False if a frame could not be sent."""

    def __init__(
        self, context: DeploymentContext, send: Callable[[Frame], bool], *, release_seconds: float = RELEASE_SECONDS
    ) -> None:
        self._context = context
        self._send = send
        self._release_seconds = release_seconds
        self._deployments: dict[str, Deployment] = {}
        self._draining: set[Deployment] = set()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._left_over = {holding.deployment_id for holding in context.cache.holdings()}
        self._unsent_releases: set[str] = set()
        self._stopping = asyncio.Event()
        context.cache.sweep()

    def serving(self, deployment_id: str) -> Serving | None:
        """The engine that accepts requests for the deployment now, if any."""
        deployment = self._deployments.get(deployment_id)
        return deployment.serving if deployment is not None else None

    def loads(self) -> list[DeploymentLoad]:
        """Those of the engines that accept requests."""
        serving = ((name, each.serving) for name, each in self._deployments.items())
        turns = ((name, each.engine.turns) for name, each in serving if each is not None)
        return [DeploymentLoad(name, each.slots, each.running, each.waiting) for name, each in turns]

    def reconcile(self, desired: Desired) -> None:
        """Starts and stops deployments to match the desired state, then reports all of them.

        The server may have lost earlier reports.
        """
        running = {name: deployment.wanted for name, deployment in self._deployments.items()}
        changes = plan(running, self._left_over, desired.deployments)
        for wanted in changes.restart:
            self._end(wanted.deployment_id, release=False, grace=DRAIN_SECONDS)
        for wanted in (*changes.start, *changes.restart):
            self._start(wanted)
        for wanted in changes.update:
            self._deployments[wanted.deployment_id].update(wanted)
        for deployment_id in changes.release:
            self._end(deployment_id, release=True)
        for deployment in self._deployments.values():
            self._send(deployment.report())
        self._unsent_releases = {name for name in self._unsent_releases if not self._send(Released(name))}
        self._confirm_deleted(desired.unconfirmed)

    async def stop(self, grace: float) -> None:
        """Stops all engines after draining for up to `grace` seconds, because the program ends. Weights are kept."""
        self._stopping.set()
        deployments = [*self._deployments.values(), *self._draining]
        self._deployments.clear()
        ends = (deployment.end(grace) for deployment in deployments)
        await asyncio.gather(*ends, *self._ending.values(), return_exceptions=True)

    async def remove_all(self) -> None:
        """Stops every engine immediately and deletes all weights, because the agent was removed from the fleet."""
        for deployment_id in {*self._deployments, *self._left_over}:
            self._end(deployment_id, release=True, grace=0)
        await asyncio.gather(*self._ending.values(), return_exceptions=True)

    def _confirm_deleted(self, deployment_ids: Sequence[str]) -> None:
        """Reports again which weights are deleted, since the server may not have received the first report."""
        if not deployment_ids:
            return
        here = {holding.deployment_id for holding in self._context.cache.holdings()} | self._deployments.keys()
        for name in deployment_ids:
            if name not in here and name not in self._ending:
                self._send(Released(name))

    def _start(self, wanted: DesiredDeployment) -> None:
        name = wanted.deployment_id
        self._left_over.discard(name)
        self._unsent_releases.discard(name)
        self._deployments[name] = Deployment(wanted, self._context, after=self._ending.get(name))

    def _end(self, deployment_id: str, *, release: bool, grace: float | None = None) -> None:
        self._left_over.discard(deployment_id)
        deployment = self._deployments.pop(deployment_id, None)
        previous = self._ending.get(deployment_id)
        seconds = self._release_seconds if grace is None else grace
        task = asyncio.create_task(self._finish(deployment_id, deployment, previous, seconds, release=release))
        self._ending[deployment_id] = task
        task.add_done_callback(lambda done: self._on_finished(deployment_id, done))

    async def _finish(
        self,
        deployment_id: str,
        deployment: Deployment | None,
        previous: asyncio.Task[None] | None,
        grace: float,
        *,
        release: bool,
    ) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        if deployment is not None:
            await self._drain(deployment, grace)
        if release:
            await self._delete_weights(deployment_id)
            name = deployment.wanted.served_name if deployment is not None else "A deployment of an earlier run"
            _log.info("%s has ended, and the weights that only it used are deleted.", name)
            if deployment_id not in self._deployments and not self._send(Released(deployment_id)):
                self._unsent_releases.add(deployment_id)

    async def _delete_weights(self, deployment_id: str) -> None:
        """Retries until it succeeds. If the program ends first, its next start tries again."""
        backoff = Backoff(RETRY_FIRST, RETRY_CAP)
        while True:
            try:
                await self._context.engines.release(deployment_id)
                await in_thread(None, self._context.cache.release, deployment_id)
            except (OSError, DeploymentError) as error:
                if self._stopping.is_set():
                    raise
                _log.error("Cannot delete the weights of deployment %s: %s", deployment_id, error)
            else:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await self._stopping.wait()

    async def _drain(self, deployment: Deployment, grace: float) -> None:
        self._draining.add(deployment)
        try:
            await deployment.end(grace)
        finally:
            self._draining.discard(deployment)

    def _on_finished(self, deployment_id: str, task: asyncio.Task[None]) -> None:
        if self._ending.get(deployment_id) is task:
            del self._ending[deployment_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("Cannot clean up deployment %s: %s", deployment_id, error)
