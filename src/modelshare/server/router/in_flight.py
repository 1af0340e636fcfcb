"""Requests under way, by what can end them: cut as soon as that is over.

A notification that keys changed has all of them looked at, in one query; so does every half second that passes, which
finds keys that expire, a rotation whose grace is over, recalls that come due, and what a lost notification did not
tell.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from modelshare.server import outages
from modelshare.server.errors import ApiError

Ground = TypeVar("Ground", bound=Hashable)

LOOK_SECONDS: Final = 0.5
"""How often grounds are looked at without having been told: half of the second that a revocation has."""
_ANSWER_SECONDS: Final = 5.0
"""A database that has not answered by then is asked again: the connection may be dead, and the database not."""


class InFlight(Generic[Ground]):
    """One process's requests, by the ground each stands on: the key it came with, the endpoint it goes to."""

    def __init__(
        self, over: Callable[[Collection[Ground]], Awaitable[Collection[Ground]]], error: Callable[[], ApiError]
    ) -> None:
        """`over` answers which grounds are no more, and `error` is what their requests end with."""
        self._over = over
        self._error = error
        self._running: dict[Ground, set[asyncio.Timeout]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @asynccontextmanager
    async def track(self, ground: Ground) -> AsyncIterator[None]:
        """The block ends with the error as soon as the ground is over.

        To be entered right after the ground was found good: nothing else runs between, so no change slips through.
        """
        try:
            async with asyncio.timeout(None) as timer:
                self._running.setdefault(ground, set()).add(timer)
                try:
                    yield
                finally:
                    self._leave(ground, timer)
        except TimeoutError as error:
            if timer.expired():
                raise self._error() from error
            raise

    async def check(self) -> None:
        """Ends what runs on a ground that is over; asks until the database answers."""
        while self._running:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    over = await self._over(list(self._running))
                break
            except Exception as error:  # noqa: BLE001 - the database may be away for a while
                outages.report("cannot check the keys and endpoints of running requests", error)
                await asyncio.sleep(LOOK_SECONDS)
        else:
            return
        now = asyncio.get_running_loop().time()
        for ground in over:
            for timer in self._running.pop(ground, ()):
                timer.reschedule(now)

    def _leave(self, ground: Ground, timer: asyncio.Timeout) -> None:
        timers = self._running.get(ground, set())
        timers.discard(timer)
        if not timers:
            self._running.pop(ground, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.check()
