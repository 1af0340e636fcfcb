"""Distinguishes an engine that hangs from one that is busy or idle."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from modelshare.agent.engines.base import Activity, Load

_MAX_PATIENCE: Final = 900.0
"""Seconds. An engine that shows no progress for longer is considered hung, whatever it was asked for."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless noted otherwise."""

    watch: float = 5.0
    """Interval between checks of a running engine."""
    recent: float = 30.0
    """After a success, the engine counts as healthy for this time, since a busy one may be slow to report its
    health."""
    idle_probe: float = 60.0
    """An engine without requests for this time is sent a small one."""
    probe_timeout: float = 60.0
    silent: float = 60.0
    """An engine that has had calls for this time without returning a token or an answer must prove that it works,
    whatever its health route reports. Extended by the time that the calls may take (`Activity.patience`)."""
    strikes: int = 3
    """Consecutive failed checks before the engine counts as hung."""


class Watched(Protocol):
    """The part of an engine that its watch uses."""

    activity: Activity

    async def health(self) -> bool:
        """Whether its health route reports success."""

    async def load(self) -> Load | None:
        """Requests inside it. None if it does not report them."""

    async def work(self) -> float | None:
        """A counter that increases with every step of its work. None if it does not report one or does not respond."""


class Watch:
    """Watches one engine."""

    def __init__(self, engine: Watched, timing: Timing, answers: Callable[[float], Awaitable[bool]]) -> None:
        """`answers`: sends the engine a small request, and returns whether it answers within the given seconds."""
        self._engine = engine
        self._timing = timing
        self._answers = answers
        self._worked: float | None = None

    async def until_hung(self, *, probes: bool) -> None:
        """Returns after `Timing.strikes` failed checks in a row. `probes`: send requests to an idle engine."""
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
        """Whether an engine without visible results makes progress, or may still take longer.

        A single step may take minutes, so its work is compared long before it is late.
        """
        work = await self._engine.work()
        if work is None:
            return not is_late or await self._is_answered(self._timing.silent / 2)
        before, self._worked = self._worked, work
        if before is not None and work != before:
            self._engine.activity.succeeded()
            return True
        return before is None or not is_late

    async def _is_idle(self) -> bool:
        """A probe is queued behind users' requests, so it must not be sent to an engine that is merely busy."""
        load = await self._engine.load()
        return load is None or not (load.running or load.waiting)

    async def _is_answered(self, within: float) -> bool:
        answered = await self._answers(within)
        if answered:
            self._engine.activity.succeeded()
        return answered
