"""Retry delays: exponential with jitter, so that clients that failed together do not retry together."""

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
    """Seconds to wait after `failures` failures in a row: `first`, multiplied by `factor` each time, at most `longest`.

    The result is multiplied by a random number from the range `jitter`. The default ("equal jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) always waits at least half of the delay,
    so that a server that refuses connections is not hammered.
    """
    # The exponent is bounded so that the power cannot overflow; 2**32 exceeds every `longest`.
    return min(longest, first * factor ** min(failures - 1, 32)) * uniform(*jitter)


class Backoff:
    """The delays of one retry loop."""

    def __init__(self, first: float, longest: float, *, uniform: Uniform = random.uniform) -> None:
        self._first = first
        self._longest = longest
        self._uniform = uniform
        self.failures = 0

    def next(self) -> float:
        """Counts a failure and returns the seconds to wait before the next attempt."""
        self.failures += 1
        return delay(self.failures, self._first, self._longest, uniform=self._uniform)

    def reset(self) -> None:
        """Call after a success: the next delay starts from `first` again."""
        self.failures = 0
