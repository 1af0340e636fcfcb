"""Ends requests in progress as soon as what they depend on is revoked: a key, a session, an endpoint.

All of them are checked in one query on each notification, and every half second: that finds keys that expire, rotations
whose grace period has ended, recalls that are due, and changes whose notification was lost.
"""

from collections.abc import Awaitable, Callable, Collection, Hashable
from typing import Final, Generic, Protocol, TypeVar

from modelshare.server.background import Loop, retry, within
from modelshare.server.errors import ApiError

Subject = TypeVar("Subject", bound=Hashable)
Request = TypeVar("Request", bound="Endable")

CHECK_SECONDS: Final = 0.5
"""How often they are checked without a notification: half of the second within which revocation must take effect."""
_ANSWER_SECONDS: Final = 5.0
"""After this the query is repeated: the connection may be dead while the database is not."""


class Endable(Protocol):
    """A request that can be ended."""

    def end_with(self, error: ApiError) -> None: ...


class InFlight(Generic[Request, Subject]):
    """Checks one process's requests, each for what it depends on, such as its key or endpoint."""

    def __init__(
        self,
        requests: Collection[Request],
        subject: Callable[[Request], Subject | None],
        revoked_among: Callable[[Collection[Subject]], Awaitable[Collection[Subject]]],
        error: Callable[[], ApiError],
    ) -> None:
        """`requests`: those in progress. `subject` returns what a request depends on, or None until that was found
        valid. From that same step on it has to return it, so that no change slips through.

        `revoked_among` returns the subjects that are no longer valid; their requests end with `error`. Call
        `loop.resume` when there are requests again.
        """
        self._requests = requests
        self._subject = subject
        self._revoked_among = revoked_among
        self._error = error
        self.loop = Loop(
            "end requests whose key, session or endpoint is revoked",
            self.check,
            every=CHECK_SECONDS,
            is_idle=lambda: not self._requests,
        )

    async def check(self) -> None:
        """Ends requests whose subject is revoked; retries until the database answers."""
        revoked = set(await retry("check running requests", self._ask, longest=CHECK_SECONDS))
        if revoked:
            for request in [each for each in self._requests if self._subject(each) in revoked]:
                request.end_with(self._error())

    async def _ask(self) -> Collection[Subject]:
        subjects = {subject for each in self._requests if (subject := self._subject(each)) is not None}
        return await within(_ANSWER_SECONDS, self._revoked_among(subjects)) if subjects else ()
