"""Requests in progress, by what they depend on: a key, a session, an endpoint. They end as soon as it is revoked.

All of them are checked in one query on each notification, and every half second: that finds keys that expire, rotations
whose grace period has ended, recalls that are due, and changes whose notification was lost.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Final, Generic, Protocol, TypeVar

from modelshare.server.background import Loop, retry, within
from modelshare.server.errors import ApiError

Subject = TypeVar("Subject", bound=Hashable)

CHECK_SECONDS: Final = 0.5
"""How often they are checked without a notification: half of the second within which revocation must take effect."""
_ANSWER_SECONDS: Final = 5.0
"""After this the query is repeated: the connection may be dead while the database is not."""


class Endable(Protocol):
    """A request that can be ended."""

    def end_with(self, error: ApiError) -> None: ...


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
        self._running: dict[Subject, set[Endable]] = {}
        self.loop = Loop(
            "end requests whose key, session or endpoint is revoked",
            self.check,
            every=CHECK_SECONDS,
            is_idle=lambda: not self._running,
        )

    def enter(self, subject: Subject, request: Endable) -> None:
        """Ends the request as soon as the subject is revoked, until it leaves.

        Call it right after the subject was found valid: nothing else runs in between, so no change slips through.
        """
        requests = self._running.get(subject)
        if requests is None:
            requests = self._running[subject] = set()
            self.loop.resume()
        requests.add(request)

    def leave(self, subject: Subject, request: Endable) -> None:
        requests = self._running.get(subject)
        if requests is not None:
            requests.discard(request)
            if not requests:
                del self._running[subject]

    async def check(self) -> None:
        """Ends requests whose subject is revoked; retries until the database answers."""
        for subject in await retry("check running requests", self._ask, longest=CHECK_SECONDS):
            for request in list(self._running.pop(subject, ())):
                request.end_with(self._error())

    async def _ask(self) -> Collection[Subject]:
        if not self._running:
            return ()
        return await within(_ANSWER_SECONDS, self._revoked_among(list(self._running)))
