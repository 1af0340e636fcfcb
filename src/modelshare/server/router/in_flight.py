"""Requests in progress, by what they depend on: a key, a session, an endpoint. They are cut as soon as it is revoked.

All of them are checked in one query on each notification, and every half second: that finds keys that expire, rotations
whose grace period is over, recalls that come due, and whatever a lost notification did not report.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from modelshare.server.background import Loop, retry
from modelshare.server.errors import ApiError

Ground = TypeVar("Ground", bound=Hashable)

LOOK_SECONDS: Final = 0.5
"""How often they are checked without a notification: half of the second in which a revocation has to hold."""
_ANSWER_SECONDS: Final = 5.0
"""After this the query is repeated: the connection may be dead while the database is not."""


class InFlight(Generic[Ground]):
    """One process's requests, by the ground each stands on: the key it came with, the endpoint it goes to."""

    def __init__(
        self, over: Callable[[Collection[Ground]], Awaitable[Collection[Ground]]], error: Callable[[], ApiError]
    ) -> None:
        """`over` answers which grounds are no more, and `error` is what their requests end with."""
        self._over = over
        self._error = error
        self._running: dict[Ground, set[asyncio.Timeout]] = {}
        self.loop = Loop("end what may not run any more", self.check, every=LOOK_SECONDS)

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
        now = asyncio.get_running_loop().time
        for ground in await retry("look at what running requests stand on", self._ask, longest=LOOK_SECONDS):
            for timer in self._running.pop(ground, ()):
                timer.reschedule(now())

    def _leave(self, ground: Ground, timer: asyncio.Timeout) -> None:
        timers = self._running.get(ground, set())
        timers.discard(timer)
        if not timers:
            self._running.pop(ground, None)

    async def _ask(self) -> Collection[Ground]:
        if not self._running:
            return ()
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await self._over(list(self._running))
