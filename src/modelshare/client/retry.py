"""When a request is tried again, and after how long. What happened comes in, the pause goes out."""

import random
from dataclasses import dataclass
from enum import Enum, auto

MAX_ATTEMPTS = 4
FIRST_PAUSE = 0.1
"""Seconds; doubles with each attempt, and varies by half so that clients that failed together come back apart."""
LONGEST_PAUSE = 30.0
"""Seconds. A server that asks for more is reported instead of waited for."""


class Outcome(Enum):
    """What became of one attempt."""

    ANSWERED = auto()
    BUSY = auto()
    """429 or 503: the server did nothing and says when to come back."""
    NOT_SENT = auto()
    """No connection came about."""
    LOST = auto()
    """The connection broke after the request went out: it may or may not have been carried out."""


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    """From 1."""
    outcome: Outcome
    repeatable: bool
    """Whether carrying it out twice does no harm."""
    retry_after: int | None = None


def pause(attempt: Attempt, *, attempts: int = MAX_ATTEMPTS, jitter: float | None = None) -> float | None:
    """Seconds to wait before the next attempt, or None where there is none. `jitter` in [0, 1) is random by default."""
    if attempt.outcome is Outcome.ANSWERED or attempt.number >= attempts:
        return None
    if not attempt.repeatable and attempt.outcome is not Outcome.NOT_SENT:
        return None
    if attempt.retry_after is not None:
        return float(attempt.retry_after) if attempt.retry_after <= LONGEST_PAUSE else None
    jitter = random.random() if jitter is None else jitter  # noqa: S311 - spreads load, keeps no secret
    return min(FIRST_PAUSE * 2.0 ** (attempt.number - 1) * (0.5 + jitter), LONGEST_PAUSE)
