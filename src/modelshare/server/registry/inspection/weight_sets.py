"""Which safetensors files of one folder belong together: by an index, by their numbers, or each by itself."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.safetensors import EXTENSION, INDEX_EXTENSION, Tensor, shards_of_index
from modelshare.server.registry.refused import Refused, shown

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors")
_PLAIN = "model"

Headers = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class WeightSet:
    weights: tuple[str, ...]
    index: str | None = None
    notes: tuple[str, ...] = ()


def check_numbering(paths: Iterable[str]) -> None:
    """Refuse shards 1 and 3 of 3, also where no index says so."""
    paths = frozenset(paths)
    for prefix, count in sorted({(shard["prefix"], shard["count"]) for shard in map(_SHARD.fullmatch, paths) if shard}):
        for number in range(1, int(count) + 1):
            wanted = f"{prefix}-{number:05}-of-{count}.safetensors"
            if wanted not in paths:
                raise Refused(f"{shown(wanted)} is missing, one of {int(count)} shards; push all of them.")


def sets_of_folder(
    folder: str, paths: Sequence[str], files: Mapping[str, RangeReader], headers: Headers
) -> list[WeightSet]:
    """The sets that the weights in a folder make up; the first is what stands there under the plain names.

    As Transformers looks for them: `model.safetensors`, then the plain index, and both before any variant's
    (`model.fp16.safetensors.index.json`). An index whose shards are not there is stale where the weights also lie in
    one file, and a variant's is then no reason to refuse anything.
    """
    plain_index = posixpath.join(folder, _PLAIN + INDEX_EXTENSION)
    single = posixpath.join(folder, _PLAIN + EXTENSION)
    found: list[WeightSet] = []
    taken: set[str] = set()
    for index in _indices(folder, files, first=plain_index):
        try:
            shards = shards_of_index(index, files, headers)
        except Refused:
            if index == plain_index and single not in headers:
                raise
        else:
            if taken.isdisjoint(shards):
                found.append(WeightSet(shards, index))
                taken.update(shards)
    loose = [path for path in paths if path not in taken]
    groups = [WeightSet(group) for group in _groups(loose)]
    if not found and single not in headers:
        return _without_plain_names(plain_index, loose, groups, headers)
    return sorted([*found, *groups], key=lambda each: _rank(each, plain_index, single))


def _indices(folder: str, files: Mapping[str, RangeReader], *, first: str) -> list[str]:
    here = (path for path in files if path.endswith(INDEX_EXTENSION) and posixpath.dirname(path) == folder)
    return sorted(here, key=lambda path: (path != first, path))


def _rank(each: WeightSet, plain_index: str, single: str) -> tuple[int, str]:
    if each.weights == (single,):
        return 0, ""
    return 1 if each.index == plain_index else 2, each.weights[0]


def _without_plain_names(
    index: str, paths: Sequence[str], groups: Sequence[WeightSet], headers: Headers
) -> list[WeightSet]:
    """The numbered shards first, where there are any of the plain name; else all files together, as engines take a
    folder without an index, unless a tensor is in two of them: then each is by itself.
    """
    note = f"There is no {shown(index)}; the machine that runs the model makes one."
    numbered = posixpath.join(posixpath.dirname(index), f"{_PLAIN}-")
    groups = sorted(groups, key=lambda each: (not each.weights[0].startswith(numbered), each.weights[0]))
    names = [name for path in paths for name in headers[path]]
    if len(groups) > 1 and not groups[0].weights[0].startswith(numbered) and len(names) == len(set(names)):
        return [WeightSet(tuple(paths), notes=(note,))]
    return [replace(each, notes=(note,)) if len(each.weights) > 1 else each for each in groups]


def _groups(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    numbered: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        if shard := _SHARD.fullmatch(path):
            numbered.setdefault((shard["prefix"], shard["count"]), []).append(path)
        else:
            yield (path,)
    yield from map(tuple, numbered.values())
