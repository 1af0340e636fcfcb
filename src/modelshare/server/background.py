"""Work in the background: each thing is tried, timed and told of by itself, so that none holds up another."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from modelshare.server import outages

log = structlog.get_logger()

_SLOW_SECONDS: Final = 10.0
"""A chore that took so long is told of."""
_LAST_CALL_SECONDS: Final = 1.0
"""What every part has for its end, even where those before it took all the time."""


@dataclass(frozen=True, slots=True)
class Chore:
    """What is done now and then; the log calls it by its name."""

    name: str
    run: Callable[[], Awaitable[object]]


class Chores:
    """Does each of them every so often, in a task of its own."""

    def __init__(self, chores: Iterable[Chore], *, every: float) -> None:
        """`every`: seconds from the end of one round to the next."""
        self._chores = list(chores)
        self._every = every
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep_doing(chore)) for chore in self._chores]

    async def stop(self) -> None:
        """Does all of them a last time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.do_all()

    async def do_all(self) -> None:
        """One round, at once."""
        await asyncio.gather(*map(_do, self._chores))

    async def _keep_doing(self, chore: Chore) -> None:
        while True:
            await _do(chore)
            await asyncio.sleep(self._every)


class Ending:
    """Ends the parts of a process one after the other: each is tried, and all together have so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None

    async def end(self, name: str, stop: Callable[[], Awaitable[object]]) -> None:
        """Ends one part. What fails, or takes too long, is told of and left behind; the time counts from the first."""
        now = time.monotonic()
        self._deadline = self._deadline or now + self._seconds
        ending = asyncio.ensure_future(stop())
        await asyncio.wait([ending], timeout=max(_LAST_CALL_SECONDS, self._deadline - now))
        if not ending.done():
            ending.cancel()
            await asyncio.wait([ending], timeout=_LAST_CALL_SECONDS)
            log.warning("took too long to stop and was abandoned", part=name)
        elif not ending.cancelled() and (error := ending.exception()) is not None:
            log.warning("did not stop cleanly", part=name, error=str(error) or type(error).__name__)


async def _do(chore: Chore) -> None:
    started = time.monotonic()
    try:
        await chore.run()
    except Exception as error:  # noqa: BLE001 - the next round may find the database back, and the others go on
        outages.report("a background task failed", error, chore=chore.name)
    took = time.monotonic() - started
    if took > _SLOW_SECONDS:
        log.warning("a background task took long", chore=chore.name, seconds=round(took, 1))
