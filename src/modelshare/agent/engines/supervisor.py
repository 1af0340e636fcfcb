"""Starts an engine's process, waits for its first real answer, watches it, and stops it completely."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from modelshare.agent.engines.base import Activity, EngineError, Load, OutOfMemoryError
from modelshare.agent.engines.child import Child
from modelshare.agent.engines.diagnosis import Diagnosis, diagnose
from modelshare.agent.engines.probe import Probe
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import TenantQueue
from modelshare.agent.engines.watch import Timing, Watch

_PORTS: Final = 5
"""Attempts if other programs take the port first."""
_ENDING_SECONDS: Final = 1.0


def free_port() -> int:
    """A loopback port that is free now; another program may still take it before the engine does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ProcessEngine:
    """An `Engine` run by the agent, once: after `died` or a failed `start`, create a new one."""

    def __init__(
        self,
        recipe: Recipe,
        state_dir: Path,
        *,
        timing: Timing | None = None,
        pick_port: Callable[[], int] = free_port,
    ) -> None:
        self.kind = ""
        self.routes = recipe.routes
        self.activity = Activity(shows_work=recipe.metrics is not None and bool(recipe.metrics.work))
        self.sharing = recipe.sharing
        self.turns = TenantQueue(recipe.sharing.slots)
        self.mapped_bytes = recipe.mapped_bytes
        self._recipe = recipe
        self._relay = recipe.relay
        self._state_dir = state_dir
        self._timing = timing or Timing()
        self._pick_port = pick_port
        self._origin = ""
        self._key = ""
        self._child: Child | None = None
        self._probe: Probe | None = None
        self._resources = AsyncExitStack()
        self._log: Sequence[str] = ()

    @property
    def base_url(self) -> str:
        return f"{self._origin}/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._recipe.has_key else {}

    @property
    def log_tail(self) -> Sequence[str]:
        return [line.replace(self._key, "***") if self._key else line for line in self._log]

    def relay_for(self, public_name: str) -> RelayPolicy:
        return self._relay.under(public_name)

    async def start(self) -> None:
        for attempt in range(1, _PORTS + 1):
            try:
                await self._start_once()
            except _PortTakenError as error:
                await self.stop()
                if attempt == _PORTS:
                    raise EngineError(str(error)) from error
            except BaseException:
                await self.stop()
                raise
            else:
                return

    async def died(self) -> str:
        assert self._child  # noqa: S101  started
        watch = asyncio.create_task(Watch(self, self._timing, self._answers).until_hung(probes=True))
        exited = asyncio.create_task(self._child.exited())
        try:
            await asyncio.wait({watch, exited}, return_when=asyncio.FIRST_COMPLETED)
            return diagnose(self.log_tail, self._child.returncode).reason
        finally:
            watch.cancel()
            exited.cancel()
            await asyncio.gather(watch, exited, return_exceptions=True)

    async def health(self) -> bool:
        return self._probe is not None and await self._probe.is_up(
            self._recipe.health_path, self._recipe.health_seconds
        )

    async def load(self) -> Load | None:
        if self._probe is None or self._recipe.metrics is None:
            return None
        return await self._probe.load(self._recipe.metrics, self._recipe.health_seconds)

    async def work(self) -> float | None:
        """See `watch.WatchedEngine`."""
        if self._probe is None or self._recipe.metrics is None:
            return None
        return await self._probe.work(self._recipe.metrics, self._recipe.health_seconds)

    async def stop(self, grace: float = 0.0) -> None:
        if grace:
            await self.activity.drained(grace)
        await self._resources.aclose()
        self._probe = None
        child, self._child = self._child, None
        if child is not None:
            # A cancelled call must not leave the engine running.
            await _run_to_completion(child.destroy(self._recipe.stop_seconds))

    async def _start_once(self) -> None:
        port = self._pick_port()
        self._origin = f"http://127.0.0.1:{port}"
        self._key = secrets.token_hex(32)  # never begins with a dash, which would make it an option
        command = self._recipe.command(port, self._key)
        self._child = await Child.spawn(command.argv, command.env, self._state_dir)
        self._log = self._child.log
        self._child.set_expendable(yes=True)  # while loading, it must not cause the death of engines that serve already
        self._probe = await self._resources.enter_async_context(Probe(self._origin, self.headers))
        await self._wait_until_ready(self._child, self._probe)
        self._child.set_expendable(yes=False)
        self.activity.succeeded()

    async def _wait_until_ready(self, child: Child, probe: Probe) -> None:
        ready = asyncio.create_task(self._ready(probe))
        ended = asyncio.create_task(child.exited())
        try:
            await asyncio.wait({ready, ended}, timeout=self._recipe.start_seconds, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception():  # perhaps because it is exiting
                await asyncio.wait({ended}, timeout=_ENDING_SECONDS)
            if ended.done():
                diagnosis = diagnose(self.log_tail, ended.result())
                raise _failure(diagnosis)
            if not ready.done():
                raise EngineError(f"The engine was not ready after {self._recipe.start_seconds / 60:.0f} minutes.")
            if ready.exception() and (diagnosis := diagnose(self.log_tail, None)).out_of_memory:
                raise _failure(diagnosis)  # the weights fit, but not what a request needs beside them
            ready.result()
        finally:
            ready.cancel()
            ended.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    async def _ready(self, probe: Probe) -> None:
        pause = 0.02
        while not await probe.is_up(self._recipe.health_path, self._recipe.health_seconds):
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 1.3)
        await probe.ask(self._recipe.spec.task, self._recipe.relay.request_model, self._recipe.start_seconds)
        if (facts := self._recipe.facts) is not None:
            told = await probe.fetch(facts.path, self._recipe.health_seconds)
            self._relay = facts.refined(self._recipe.relay, told)

    async def _answers(self, within: float) -> bool:
        return self._probe is not None and await self._probe.answers(
            self._recipe.spec.task, self._recipe.relay.request_model, within
        )


class _PortTakenError(EngineError):
    pass


def _failure(diagnosis: Diagnosis) -> EngineError:
    if diagnosis.port_taken:
        return _PortTakenError(diagnosis.reason)
    return OutOfMemoryError(diagnosis.reason) if diagnosis.out_of_memory else EngineError(diagnosis.reason)


async def _run_to_completion(job: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(job)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
