"""Requests in progress, by what they depend on: a key, a session, an endpoint. They end as soon as it is revoked.

All of them are checked in one query on each notification, and every half second: that finds keys that expire, rotations
whose grace period has ended, recalls that are due, and changes whose notification was lost.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from modelshare.server.background import Loop, retry, within
from modelshare.server.errors import ApiError

Subject = TypeVar("Subject", bound=Hashable)

CHECK_SECONDS: Final = 0.5
"""How often they are checked without a notification: half of the second within which revocation must take effect."""
_ANSWER_SECONDS: Final = 5.0
"""After this the query is repeated: the connection may be dead while the database is not."""


class InFlight(Generic[Subject]):
    """One process's requests, by what each depends on, such as its key or endpoint."""

    def __init__(
        self,
        revoked_among: Callable[[Collection[Subject]], Awaitable[Collection[Subject]]],
        error: Callable[[], ApiError],
    ) -> None:
        """`revoked_among` returns the subjects that are no longer valid; their requests end with `error`."""
        self._revoked_among = revoked_among
        self._error = error
        self._running: dict[Subject, set[asyncio.Timeout]] = {}
        self.loop = Loop("end requests whose key, session or endpoint is revoked", self.check, every=CHECK_SECONDS)

    @asynccontextmanager
    async def track(self, subject: Subject) -> AsyncIterator[None]:
        """The block ends with the error as soon as the subject is revoked.

        Enter it right after the subject was found valid: nothing else runs in between, so no change slips through.
        """
        try:
            async with asyncio.timeout(None) as timer:
                self._running.setdefault(subject, set()).add(timer)
                try:
                    yield
                finally:
                    self._leave(subject, timer)
        except TimeoutError as error:
            if timer.expired():
                raise self._error() from error
            raise

    async def check(self) -> None:
        """Ends requests whose subject is revoked; retries until the database answers."""
        now = asyncio.get_running_loop().time
        for subject in await retry("check running requests", self._ask, longest=CHECK_SECONDS):
            for timer in self._running.pop(subject, ()):
                timer.reschedule(now())

    def _leave(self, subject: Subject, timer: asyncio.Timeout) -> None:
        timers = self._running.get(subject, set())
        timers.discard(timer)
        if not timers:
            self._running.pop(subject, None)

    async def _ask(self) -> Collection[Subject]:
        if not self._running:
            return ()
        return await within(_ANSWER_SECONDS, self._revoked_among(list(self._running)))
