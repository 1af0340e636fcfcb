"""Where a connection stands, and whether bytes keep moving on it. Pure."""

from enum import Enum, auto
from typing import Final

LEAST_BYTES: Final = 16 << 10
"""What has to come of a body, or be taken of an answer, in the time that either may stall: a trickle is no progress."""
FIRST_LOOK_SECONDS: Final = 0.5
"""What an answer may take before a client that has closed its half is looked after."""


class ConnectionPhase(Enum):
    HEAD = auto()
    """The head of a request is awaited."""
    BODY = auto()
    """The rest of a request is awaited."""
    WORK = auto()
    """It is the application's turn, or its answer's to be taken."""
    IDLE = auto()
    """All requests are answered."""
    CLOSING = auto()
    """The last answer is on its way; what comes is read for nothing."""


class Pace:
    """Of what moves in one direction. `moved` counts its bytes, from any beginning on."""

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
    """Whether a client that sends no more is still there. Looked at ever more seldom."""

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
