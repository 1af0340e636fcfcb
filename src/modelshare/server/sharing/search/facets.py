"""Counts per value over the models that fit. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from modelshare.server.sharing.search.ranges import CONTEXT, PARAMETERS

Facets = dict[str, list[tuple[str, int]]]
"""By facet: its values with how many models have each, most frequent first."""
_MOST_VALUES = 50
"""That are told of a facet."""


def count(rows: Sequence[Any]) -> Facets:
    """Counts what the rows say; what is not known of a model is not counted."""
    counted: dict[str, Counter[str | None]] = {
        "family": Counter(row.family for row in rows),
        "license": Counter(row.license for row in rows),
        "architecture": Counter(row.architecture for row in rows),
        "format": Counter(row.format for row in rows),
        "role": Counter(row.role for row in rows),
        "tag": Counter("\n".join(row.tags for row in rows).split("\n")),
    }
    told = {name: _most_frequent(counter.items()) for name, counter in counted.items()}
    for name, scale, numbers in (
        ("parameters", PARAMETERS, Counter(row.parameters for row in rows)),
        ("context", CONTEXT, Counter(row.context_length for row in rows)),
    ):
        buckets: Counter[str | None] = Counter()
        for number, times in numbers.items():
            buckets[scale.bucket(number)] += times
        told[name] = [(value, buckets[value]) for value in scale.buckets if buckets[value]]
    return told


def _most_frequent(counted: Iterable[tuple[str | None, int]]) -> list[tuple[str, int]]:
    known = [(value, times) for value, times in counted if value]
    return sorted(known, key=lambda each: (-each[1], each[0]))[:_MOST_VALUES]
