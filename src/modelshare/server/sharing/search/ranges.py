"""Buckets of numbers, for facets: `3B-8B` is at least 3·10⁹ and less than 8·10⁹. Pure."""

from bisect import bisect_right
from dataclasses import dataclass

_K = 1024
_B = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Range:
    """At least `low`, at most `high`; None: no bound."""

    low: int | None
    high: int | None

    @property
    def is_everything(self) -> bool:
        return self.low is None and self.high is None

    def __contains__(self, number: int) -> bool:
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


@dataclass(frozen=True, slots=True)
class Scale:
    """Buckets of a number. 0 means unknown and is in no bucket."""

    letter: str
    """The kind of its terms."""
    bounds: tuple[tuple[int, str], ...]
    """The lower bound of each bucket, and its text."""

    @property
    def buckets(self) -> list[str]:
        """Their names as values of a facet, ascending; the highest has no upper bound: `100B-`."""
        names = [name for _, name in self.bounds]
        return [f"{low}-{high}" for low, high in zip(names, [*names[1:], ""], strict=True)]

    def bucket(self, number: int) -> str | None:
        return None if number <= 0 else self.buckets[self._place(number)]

    def terms(self, number: int) -> list[str]:
        """The terms of an entry with this number."""
        return [] if number <= 0 else [self._term(self._place(number))]

    def covering(self, asked: Range) -> list[str]:
        """The terms of all buckets that overlap the range; none if that is empty."""
        low = max(asked.low or 0, 1)
        first = self._place(low)
        last = len(self.bounds) - 1 if asked.high is None else self._place(asked.high)
        return [] if asked.high is not None and asked.high < low else [self._term(n) for n in range(first, last + 1)]

    def _place(self, number: int) -> int:
        return bisect_right(self.bounds, number, key=lambda bound: bound[0]) - 1

    def _term(self, place: int) -> str:
        return f"_{self.letter}{place}"


PARAMETERS = Scale("n", ((0, "0B"), *((n * _B, f"{n}B") for n in (1, 3, 8, 15, 40, 100))))
CONTEXT = Scale("c", ((0, "0K"), *((n * _K, f"{n}K") for n in (4, 8, 32, 128)), (_K * _K, "1M")))
"""In tokens; K is 1,024."""
