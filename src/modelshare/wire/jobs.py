"""The platform's work in the background, as its operator sees it."""

from typing import Literal

from modelshare.wire.base import Response, UnixSeconds


class GivenUpJob(Response):
    """A job that failed too often."""

    object: Literal["job.given_up"] = "job.given_up"
    id: str
    kind: str
    """Such as `registry.process`."""
    subject: str
    """What it was about: an id of the kind's own."""
    attempts: int
    error: str
    """Of the last attempt."""
    given_up_at: UnixSeconds
