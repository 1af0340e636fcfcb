"""How long to wait before trying again: exponential with jitter, so that many agents do not come back at once."""

import random
from collections.abc import Callable


class Backoff:
    """Delays that double from `first` up to `cap` seconds, each drawn between half of it and the whole.

    Halves ("equal jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) keep a floor
    under the wait, so that a refused connection is never hammered.
    """

    def __init__(self, first: float, cap: float, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._first = first
        self._cap = cap
        self._uniform = uniform
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        # 2**32 is past every cap; it keeps the power small however long a server stays away.
        whole = min(self._cap, self._first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return self._uniform(whole / 2, whole)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
