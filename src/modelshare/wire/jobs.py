"""Failed background jobs, as shown to the platform's operator."""

from typing import Literal

from modelshare.wire.base import Response, UnixSeconds


class GivenUpJob(Response):
    """A job that failed after its last attempt."""

    object: Literal["job.given_up"] = "job.given_up"
    id: str
    kind: str
    """Such as `registry.process`."""
    subject: str
    """The id of what the job worked on; what kind of id depends on `kind`."""
    attempts: int
    error: str
    """The error of the last attempt."""
    given_up_at: UnixSeconds
