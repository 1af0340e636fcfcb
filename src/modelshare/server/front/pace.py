"""The phase of a connection, and whether bytes keep flowing. Pure."""

from enum import Enum, auto
from typing import Final

LEAST_BYTES: Final = 16 << 10
"""Minimum bytes of a body or an answer to transfer within the stall timeout."""
FIRST_LOOK_SECONDS: Final = 0.5
"""What an answer may take before a client that has closed its half is looked after."""


class ConnectionPhase(Enum):
    HEAD = auto()
    """Waits for the head of a request."""
    BODY = auto()
    """Waits for the rest of a request."""
    WORK = auto()
    """The application works, or the client reads the answer."""
    IDLE = auto()
    """All requests are answered."""
    CLOSING = auto()
    """The last answer is being sent; input is discarded."""


class Pace:
    """The progress in one direction. `moved` is a running total of bytes."""

    __slots__ = ("_mark", "_seconds", "_since")

    def __init__(self, seconds: float) -> None:
        """In which at least `LEAST_BYTES` have to move."""
        self._seconds = seconds
        self._since = 0.0
        self._mark = 0

    def begin(self, now: float, moved: int) -> None:
        self._since, self._mark = now, moved

    def is_kept(self, now: float, moved: int, last: float) -> bool:
        """Whether enough has moved. `last`: when something did."""
        if now - self._since >= self._seconds:
            if moved - self._mark < LEAST_BYTES:
                return False
            self.begin(now, moved)
        return now - last < self._seconds

    def deadline(self, last: float) -> float:
        """When to look again."""
        return min(self._since, last) + self._seconds


class Doubt:
    """Whether a client that has closed its half is still connected. Checked at increasing intervals."""

    __slots__ = ("_patience", "deadline")

    def __init__(self) -> None:
        self.deadline = float("inf")
        """When to look next."""
        self._patience = FIRST_LOOK_SECONDS

    @property
    def is_there(self) -> bool:
        return self.deadline < float("inf")

    def begin(self, now: float) -> None:
        self.deadline = now + self._patience

    def again(self, now: float) -> float:
        """The next deadline."""
        self.deadline = now + self._patience
        self._patience *= 2
        return self.deadline
