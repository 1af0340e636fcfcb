"""Supervises one deployment on this machine: pulls its files, runs its engine, and retries after failures."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import msgspec

from modelshare.agent import signatures
from modelshare.agent.cache import Cache, CachedFiles
from modelshare.agent.engines.base import Engine, EngineError, OutOfMemoryError
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.errors import DamagedError, DeploymentError
from modelshare.agent.layout import lay_out
from modelshare.agent.pull import Puller
from modelshare.agent.ram_budget import RamBudget
from modelshare.transfer.ranges import OwnerAwayError
from modelshare.transfer.tasks import in_thread
from modelshare.wire.agents import Grant, Phase
from modelshare.wire.backoff import Backoff
from modelshare.wire.link import MAX_INTEGER, MAX_TEXT, DesiredDeployment, Report
from modelshare.wire.signing import PublicKey
from modelshare.wire.text import plain

_log = logging.getLogger(__name__)

RETRY_FIRST: Final = 2.0
RETRY_CAP: Final = 300.0
_REPORT_SECONDS: Final = 0.5
"""Minimum time between two reports during a transfer: the link allows two per second."""
_FOLDERS = re.compile(r"(?<![\w/:.])/(?:[^\s/:'\",]+/)*")
"""Matches the folders of an absolute path, but not those of a URL."""
_DRAIN_POLL_SECONDS: Final = 1.0
"""Interval at which a drain checks whether its deadline was moved forward."""
_STEADY_SECONDS: Final = 60.0
"""A failure after this time of serving resets the retry delay."""


class Engines(Protocol):
    """Creates engines."""

    async def prepare(
        self,
        wanted: DesiredDeployment,
        folder: Path,
        scratch: Path,
        on_phase: Callable[[Phase], None],
        failed: Mapping[str, str],
    ) -> Engine:
        """Prepares an engine, not yet started, for the model in `folder`; generated files are kept in `scratch`.

        Engines in `failed` (kind to reason) are not used. Raises DeploymentError.
        """

    def on_cluster(self, wanted: DesiredDeployment, grants: Callable[[], Awaitable[Grant]]) -> Engine | None:
        """An engine on other machines, which pull the weights by these grants; None if engines run on this one.

        Raises DeploymentError.
        """

    async def release(self, deployment_id: str) -> None:
        """Deletes what engines have of the deployment outside the cache. Raises DeploymentError if that failed."""


@dataclass(frozen=True, slots=True)
class Serving:
    """An engine that accepts requests, and how these are translated for it."""

    engine: Engine
    policy: RelayPolicy


@dataclass(frozen=True, slots=True)
class DeploymentContext:
    """What the deployments of an agent share."""

    cache: Cache
    puller: Puller
    engines: Engines
    memory: RamBudget
    grant: Callable[[str], Awaitable[Grant]]
    """Fetches a new grant for a deployment's id."""
    report: Callable[[Report], object]
    pulls: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    loads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """One at a time: engines that load concurrently misjudge how much accelerator memory is free."""
    retry_first: float = RETRY_FIRST
    signers: tuple[PublicKey, ...] = ()
    """Keys of which one has to have signed every model; none: what the server says counts."""


class Deployment:
    """Supervises one deployment until `end` is called."""

    def __init__(
        self, wanted: DesiredDeployment, context: DeploymentContext, *, after: asyncio.Task[None] | None = None
    ) -> None:
        self.wanted = wanted
        self.serving: Serving | None = None
        """Set while the deployment accepts requests."""
        self._context = context
        self._holding = CachedFiles(wanted.deployment_id, wanted.manifest_digest, wanted.files)
        self._phase = Phase.WAITING
        self._reason: str | None = None
        self._bytes_done = 0
        self._bytes_total = sum(size for _, size in {(file.sha256, file.size) for file in wanted.files})
        self._reported_at = 0.0
        self._deadline: float | None = None
        """Deadline for requests in progress, by the loop's clock; None until the deployment is to end."""
        self._task = asyncio.create_task(self._run(after))

    def report(self) -> Report:
        """The current progress, for the server."""
        routes = [route.value for route in sorted(self.serving.engine.routes)] if self.serving is not None else []
        reason = None if self._reason is None else plain(self._reason, MAX_TEXT)
        done, total = (min(count, MAX_INTEGER) for count in (self._bytes_done, self._bytes_total))
        return Report(self.wanted.deployment_id, self._phase, done, total, reason, routes)

    def update(self, wanted: DesiredDeployment) -> None:
        """Applies changes that do not require another engine."""
        self.wanted = wanted
        if self.serving is not None:
            engine = self.serving.engine
            self.serving = Serving(engine, engine.relay_for(wanted.served_name))

    async def end(self, grace: float) -> None:
        """Rejects new requests, waits up to `grace` seconds for those in progress, and stops the engine.

        A further call may shorten the wait.
        """
        deadline = asyncio.get_running_loop().time() + grace
        if self._deadline is None:
            self._deadline = deadline
            self.serving = None
            self._enter(Phase.WAITING, "The deployment is stopping.")
            self._task.cancel()
        else:
            self._deadline = min(self._deadline, deadline)
        await asyncio.wait([self._task])

    async def _run(self, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait([after])
        backoff = Backoff(self._context.retry_first, RETRY_CAP)
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            reason = await self._run_once()
            if self._deadline is not None:  # it was ending anyway
                _log.error("%s did not stop cleanly: %s", self.wanted.served_name, reason)
                return
            if loop.time() - started > _STEADY_SECONDS:
                backoff.reset()
            delay = backoff.next()
            _log.error("%s failed: %s Trying again in %.0f s.", self.wanted.served_name, reason, delay)
            self._enter(Phase.FAILED, without_folders(reason))
            await asyncio.sleep(delay)

    async def _run_once(self) -> str:
        try:
            return await self._pull_and_serve()
        except DeploymentError as error:
            return str(error)
        except OSError as error:
            _log.debug("", exc_info=True)
            return f"The agent's disk or network failed: {error.strerror or error}."
        except Exception:  # noqa: BLE001 - logged, reported and retried: only `end` may stop the supervisor
            _log.exception("Unexpected.")
            return "Internal error of the agent; see its log for details."

    async def _pull_and_serve(self) -> str:
        """Pulls the files, starts an engine and serves; returns why it stopped serving."""
        context = self._context
        self._enter(Phase.WAITING)
        await in_thread(None, signatures.check, self.wanted, context.signers)
        elsewhere = context.engines.on_cluster(self.wanted, partial(context.grant, self.wanted.deployment_id))
        if elsewhere is not None:
            return await self._serve_elsewhere(elsewhere)
        await in_thread(None, context.cache.hold, self._holding)
        fresh = await self._pull()
        layout = lay_out(self.wanted)
        folder = await in_thread(None, context.cache.view, self._holding, layout.files)
        await in_thread(None, layout.finish, folder)
        scratch = context.cache.converted(self._holding.manifest_digest, layout.key)
        with ExitStack() as lifetime:
            async with context.loads:
                engine = await self._start_engine(folder, scratch, lifetime, fresh)
            return await self._serve(engine)

    async def _serve_elsewhere(self, engine: Engine) -> str:
        """Without weights here: what is held is only that they are to be deleted in the end."""
        await in_thread(None, self._context.cache.hold, msgspec.structs.replace(self._holding, files=[]))
        self._enter(Phase.LOADING)
        try:
            await engine.start()
        except EngineError:
            _log.warning(
                "%s: what %s wrote last:\n%s", self.wanted.served_name, engine.kind, "\n".join(engine.log_tail)
            )
            raise
        return await self._serve(engine)

    async def _start_engine(self, folder: Path, scratch: Path, lifetime: ExitStack, fresh: set[str]) -> Engine:
        """Starts the best engine that works. Its memory reservation is added to `lifetime`.

        While it loads the files, they are read and verified again, except those that were just pulled (`fresh`).
        """
        context = self._context
        failed: dict[str, str] = {}
        while True:
            engine = await context.engines.prepare(self.wanted, folder, scratch, self._enter, failed)
            with ExitStack() as attempt:
                attempt.enter_context(context.memory.room_for(engine.mapped_bytes))
                self._enter(Phase.LOADING)
                try:
                    await self._start_verified(engine, fresh)
                except EngineError as error:
                    _log.warning(
                        "%s: %s failed to start: %s\n%s",
                        self.wanted.served_name,
                        engine.kind,
                        error,
                        "\n".join(engine.log_tail),
                    )
                    if isinstance(error, OutOfMemoryError):
                        raise
                    failed[engine.kind] = str(error)
                else:
                    lifetime.push(attempt.pop_all())
                    return engine

    async def _start_verified(self, engine: Engine, fresh: set[str]) -> None:
        """Starts the engine, and meanwhile verifies what it loads: damage may change neither size nor time of a file.

        Raises EngineError, and DamagedError for files that are no longer the model's.
        """
        files = [file for file in self._holding.files if file.sha256 not in fresh]
        verifying = asyncio.create_task(self._context.puller.discard_damaged(files))
        try:
            try:
                await engine.start()
            except EngineError as error:
                if damaged := await verifying:
                    raise DamagedError(damaged) from error
                raise
            try:
                damaged = await verifying
            except BaseException:
                await engine.stop()
                raise
            if damaged:
                await engine.stop()
                raise DamagedError(damaged)
        finally:
            verifying.cancel()
            await asyncio.wait([verifying])
            if not verifying.cancelled() and verifying.exception() is None:
                fresh.update(file.sha256 for file in files)  # for the next engine, if this one failed

    async def _serve(self, engine: Engine) -> str:
        try:
            self.serving = Serving(engine, engine.relay_for(self.wanted.served_name))
            self._enter(Phase.READY)
            return await engine.died()
        finally:
            self.serving = None
            await self._drain(engine)
            await engine.stop()

    async def _drain(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        while (left := (self._deadline or 0.0) - loop.time()) > 0:
            if await engine.activity.drained(min(left, _DRAIN_POLL_SECONDS)):
                return

    async def _pull(self) -> set[str]:
        """Pulls all missing files; returns their digests. Waits while their owner's machine is away."""
        while True:
            try:
                return await self._pull_missing()
            except OwnerAwayError as away:  # others may pull meanwhile
                self._enter(Phase.WAITING, f"The pull waits. {away}")
                await asyncio.sleep(away.retry_after)

    async def _pull_missing(self) -> set[str]:
        context = self._context
        missing = {file.sha256 for file in self._holding.files if not context.cache.has(file)}
        self._bytes_done = 0 if missing else self._bytes_total
        if not missing:
            return missing
        async with context.pulls:
            with context.cache.room_for(self._holding):
                self._enter(Phase.PULLING)
                await context.puller.pull(
                    self._holding.files, lambda: context.grant(self.wanted.deployment_id), self._on_bytes
                )
        return missing

    def _on_bytes(self, count: int) -> None:
        self._bytes_done += count
        if self._bytes_done >= self._bytes_total:
            self._enter(Phase.VERIFYING)
        elif self._phase is Phase.VERIFYING:  # a digest was wrong, and the file is pulled again
            self._enter(Phase.PULLING)
        elif asyncio.get_running_loop().time() >= self._reported_at + _REPORT_SECONDS:
            self._send_report()

    def _enter(self, phase: Phase, reason: str | None = None) -> None:
        if (phase, reason) != (self._phase, self._reason):
            self._phase, self._reason = phase, reason
            _log.info("%s: %s", self.wanted.served_name, phase)
            self._send_report()

    def _send_report(self) -> None:
        self._reported_at = asyncio.get_running_loop().time()
        self._context.report(self.report())


def without_folders(reason: str) -> str:
    """Strips folders from absolute paths, since tenants can read the reason. The log has the full paths."""
    return _FOLDERS.sub("", reason)
