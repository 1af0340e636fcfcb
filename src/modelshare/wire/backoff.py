"""How long to wait before trying again: exponential with jitter, so that many who failed together come back apart."""

import random
from collections.abc import Callable

Uniform = Callable[[float, float], float]


def delay(
    failures: int,
    first: float,
    longest: float,
    *,
    factor: float = 2.0,
    jitter: tuple[float, float] = (0.5, 1.0),
    uniform: Uniform = random.uniform,
) -> float:
    """Seconds to wait after so many failures in a row: `first`, grown by `factor` each time up to `longest`.

    That is multiplied by a number between the two of `jitter`. Halves ("equal jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) keep a floor under the wait, so that a
    refused connection is never hammered.
    """
    # The power stays small however long a server stays away: 2**32 is past every bound.
    return min(longest, first * factor ** min(failures - 1, 32)) * uniform(*jitter)


class Backoff:
    """Delays of one who tries again and again."""

    def __init__(self, first: float, longest: float, *, uniform: Uniform = random.uniform) -> None:
        self._first = first
        self._longest = longest
        self._uniform = uniform
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        self.failures += 1
        return delay(self.failures, self._first, self._longest, uniform=self._uniform)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
