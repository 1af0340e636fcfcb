"""Tells an engine that hangs from one that is busy, or has nothing to do."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from modelshare.agent.engines.base import Activity, Load

_MAX_PATIENCE: Final = 900.0
"""Seconds: whatever was asked for, an engine that shows nothing of it for longer is no use."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless said otherwise."""

    watch: float = 5.0
    """Between two looks at a running engine."""
    recent: float = 30.0
    """A success so long ago counts as healthy: a busy engine may be slow to tell its health."""
    idle_probe: float = 60.0
    """An engine without requests for so long is asked a small one."""
    probe_timeout: float = 60.0
    silent: float = 60.0
    """An engine that was asked for so long without a token or an answer has to show that it works, whatever its health
    route says; longer by what the requests may take until then (`Activity.patience`)."""
    strikes: int = 3
    """Failed looks in a row before the engine counts as hung."""


class Watched(Protocol):
    """An engine, as far as its watch has to know it."""

    activity: Activity

    async def health(self) -> bool:
        """Does its health route say that it is well?"""

    async def load(self) -> Load | None:
        """Requests inside it. None where it does not tell."""

    async def work(self) -> float | None:
        """A count that rises with every step of its work. None where it does not tell, or does not answer."""


class Watch:
    """The watch over one engine."""

    def __init__(self, engine: Watched, timing: Timing, answers: Callable[[float], Awaitable[bool]]) -> None:
        """`answers` asks it something small: does it answer within so many seconds?"""
        self._engine = engine
        self._timing = timing
        self._answers = answers
        self._worked: float | None = None

    async def until_hung(self, *, probes: bool) -> None:
        """Returns after as many bad looks in a row as `Timing` says. `probes`: an idle engine is asked something."""
        strikes = 0
        while strikes < self._timing.strikes:
            await asyncio.sleep(self._timing.watch)
            strikes = 0 if await self._is_well(probes=probes) else strikes + 1

    async def _is_well(self, *, probes: bool) -> bool:
        activity, timing = self._engine.activity, self._timing
        since = monotonic() - activity.last_success
        if since < timing.recent:
            return True
        if not await self._engine.health():
            return False
        if activity.silence > timing.silent:
            patience = timing.silent + min(activity.patience, _MAX_PATIENCE)
            return await self._works(is_late=activity.silence > patience)
        if not probes or since < timing.idle_probe or activity.running or not await self._is_idle():
            return True
        return await self._is_answered(timing.probe_timeout)

    async def _works(self, *, is_late: bool) -> bool:
        """Whether an engine that shows nothing of what it was asked for gets on with it all the same, or may take
        longer still. One step may take minutes, so its work is looked at long before it is late."""
        work = await self._engine.work()
        if work is None:
            return not is_late or await self._is_answered(self._timing.silent / 2)
        before, self._worked = self._worked, work
        if before is not None and work != before:
            self._engine.activity.succeeded()
            return True
        return before is None or not is_late

    async def _is_idle(self) -> bool:
        """A probe waits in the same queue as users' requests: it must not judge an engine that is merely busy."""
        load = await self._engine.load()
        return load is None or not (load.running or load.waiting)

    async def _is_answered(self, within: float) -> bool:
        answered = await self._answers(within)
        if answered:
            self._engine.activity.succeeded()
        return answered
