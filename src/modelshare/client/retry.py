"""Whether and when a request is retried. Pure."""

from dataclasses import dataclass
from enum import Enum, auto

from modelshare.wire.backoff import delay

MAX_ATTEMPTS = 4
FIRST_PAUSE = 0.1
"""Seconds. Doubles with each attempt; jitter keeps clients that failed together from retrying together."""
LONGEST_PAUSE = 30.0
"""Seconds. If the server asks for more, the error is reported instead."""


class Outcome(Enum):
    """How one attempt ended."""

    ANSWERED = auto()
    BUSY = auto()
    """429 or 503: the server did nothing and may say when to retry."""
    NOT_SENT = auto()
    """There was no connection: the server received nothing of the request."""
    LOST = auto()
    """The connection broke after the request was sent: the server may or may not have processed it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    """Counted from 1."""
    outcome: Outcome
    repeatable: bool
    """Whether processing the request twice is harmless."""
    retry_after: int | None = None


def pause(attempt: Attempt, *, attempts: int = MAX_ATTEMPTS, jitter: float | None = None) -> float | None:
    """Seconds before the next attempt, or None to give up. `jitter` in [0, 1) is random by default."""
    if attempt.outcome is Outcome.ANSWERED or attempt.number >= attempts:
        return None
    if not attempt.repeatable and attempt.outcome is not Outcome.NOT_SENT:
        return None
    if attempt.retry_after is not None:
        return float(attempt.retry_after) if attempt.retry_after <= LONGEST_PAUSE else None
    bounds = (0.5, 1.5) if jitter is None else (0.5 + jitter, 0.5 + jitter)
    return min(delay(attempt.number, FIRST_PAUSE, LONGEST_PAUSE, jitter=bounds), LONGEST_PAUSE)
