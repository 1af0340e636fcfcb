"""Counts the values of facets over the matching models. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from modelshare.server.sharing.search.ranges import CONTEXT, PARAMETERS

Facets = dict[str, list[tuple[str, int]]]
"""By facet: its values with the number of models, most frequent first."""
_PLAIN = ("family", "license", "architecture", "format", "role")
_MAX_VALUES = 50
"""Per facet."""


def count(columns: Mapping[str, Sequence[Any]]) -> Facets:
    """Counts the values of the models' columns, without unknown ones."""
    told = {name: _most_frequent(Counter(columns[name])) for name in _PLAIN}
    told["tag"] = _most_frequent(Counter("\n".join(columns["tags"]).split("\n")))
    for name, scale, column in (("parameters", PARAMETERS, "parameters"), ("context", CONTEXT, "context_length")):
        buckets: Counter[str | None] = Counter()
        for number, times in Counter(columns[column]).items():
            buckets[scale.bucket(number)] += times
        told[name] = [(value, buckets[value]) for value in scale.buckets if buckets[value]]
    return told


def _most_frequent(counted: Counter[str | None]) -> list[tuple[str, int]]:
    known = [(value, times) for value, times in counted.items() if value]
    return sorted(known, key=lambda each: (-each[1], each[0]))[:_MAX_VALUES]
