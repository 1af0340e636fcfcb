"""Token buckets: a rate per minute with a burst. Pure; the clock is passed in."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Holds up to `capacity` tokens and gains `per_minute` tokens a minute."""

    per_minute: float
    capacity: float
    level: float
    updated: float
    """Seconds."""

    def refill(self, now: float) -> None:
        passed = max(0.0, now - self.updated)  # a clock may be set back
        self.level = min(self.capacity, self.level + passed * self.per_minute / 60)
        self.updated = now

    def take(self, amount: float, now: float) -> int:
        """Takes the tokens and returns 0, or returns the whole seconds until there are enough."""
        self.refill(now)
        if self.level >= amount:
            self.level -= amount
            return 0
        return max(1, math.ceil((amount - self.level) * 60 / self.per_minute))

    def charge(self, amount: float, now: float) -> None:
        """Takes tokens that were already used; the level may become negative."""
        self.refill(now)
        self.level -= amount


class TokenBuckets:
    """One bucket per subject; beyond `limit` the least recently used ones are dropped."""

    def __init__(
        self, per_minute: float, clock: Callable[[], float], *, burst: float = 0.5, limit: int = 100_000
    ) -> None:
        self._per_minute = per_minute
        self._capacity = per_minute * (1 + burst)
        self._clock = clock
        self._limit = limit
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, subject: str) -> int:
        """0 if one more is allowed, else the seconds to wait."""
        now = self._clock()
        bucket = self._buckets.get(subject)
        if bucket is None:
            bucket = self._buckets[subject] = Bucket(self._per_minute, self._capacity, self._capacity, now)
            if len(self._buckets) > self._limit:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(subject)
        return bucket.take(1, now)

    def used(self, subject: str) -> float:
        """The tokens that the subject has used recently."""
        bucket = self._buckets.get(subject)
        if bucket is None:
            return 0
        bucket.refill(self._clock())
        return self._capacity - bucket.level
