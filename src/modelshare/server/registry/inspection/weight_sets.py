"""Groups the safetensors files of a folder into sets: by an index, by their numbers, or individually."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.inspection.safetensors import EXTENSION, INDEX_EXTENSION, Tensor, shards_of_index
from modelshare.server.registry.refused import ModelRejectedError, printable

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.safetensors")
_PLAIN = "model"


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of a version's weights files."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file and name; damaged files are missing."""
    damaged: Mapping[str, ModelRejectedError]

    def names(self, paths: Iterable[str]) -> list[str]:
        return [name for path in paths for name in self.tensors[path]]

    def fault(self, paths: Iterable[str]) -> ModelRejectedError | None:
        """The error of the first of these files that is damaged."""
        return next((self.damaged[path] for path in paths if path in self.damaged), None)


@dataclass(frozen=True, slots=True)
class WeightSet:
    weights: tuple[str, ...]
    index: str | None = None
    notes: tuple[str, ...] = ()
    refused: ModelRejectedError | None = None
    """The error, if the set cannot be used."""


def check_numbering(paths: Iterable[str]) -> None:
    """Raises ModelRejectedError for incomplete shards, such as 1 and 3 of 3, even without an index."""
    paths = frozenset(paths)
    for prefix, count in sorted({(shard["prefix"], shard["count"]) for shard in map(_SHARD.fullmatch, paths) if shard}):
        for number in range(1, int(count) + 1):
            wanted = f"{prefix}-{number:05}-of-{count}.safetensors"
            if wanted not in paths:
                raise ModelRejectedError(
                    f"{printable(wanted)} is missing, one of {int(count)} shards; push all of them."
                )


def sets_of_folder(
    folder: str, paths: Sequence[str], files: Mapping[str, RangeReader], headers: Headers
) -> list[WeightSet]:
    """The sets of weights in a folder; the set with the standard names comes first.

    The order is that of Transformers: `model.safetensors`, then the standard index, then those of variants
    (`model.fp16.safetensors.index.json`). An index with missing shards is stale if the weights are also in a single
    file;
    then a variant's index is not an error either. An error in a set matters only if that set is used.
    """
    plain_index = posixpath.join(folder, _PLAIN + INDEX_EXTENSION)
    single = posixpath.join(folder, _PLAIN + EXTENSION)
    found: list[WeightSet] = []
    taken: set[str] = set()
    for index in _indices(folder, files, first=plain_index):
        try:
            shards = shards_of_index(index, files, headers.tensors, headers.damaged)
        except ModelRejectedError as refused:
            if index == plain_index and single not in headers.tensors:
                return [WeightSet(tuple(paths), index, refused=refused)]
        else:
            if taken.isdisjoint(shards):
                found.append(WeightSet(shards, index, refused=headers.fault(shards)))
                taken.update(shards)
    loose = [path for path in paths if path not in taken]
    groups = [WeightSet(group, refused=headers.fault(group)) for group in _groups(loose)]
    if not found and single not in headers.tensors:
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
    """Numbered shards with standard names first. Without any, all files are one set, as engines load a folder without
    an index, unless a tensor is in two of them: then each file is a set.
    """
    note = f"There is no {printable(index)}; the machine that runs the model makes one."
    groups = sorted(groups, key=lambda each: (not _has_plain_name(each), each.weights[0]))
    names = headers.names(paths)
    if len(groups) > 1 and not _has_plain_name(groups[0]) and len(names) == len(set(names)):
        return [WeightSet(tuple(paths), notes=(note,), refused=headers.fault(paths))]
    return [replace(each, notes=(note,)) if len(each.weights) > 1 else each for each in groups]


def _has_plain_name(each: WeightSet) -> bool:
    """Whether these are `model-00001-of-00002.safetensors` and so on."""
    shard = _SHARD.fullmatch(each.weights[0])
    return shard is not None and posixpath.basename(shard["prefix"]) == _PLAIN


def _groups(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    numbered: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        if shard := _SHARD.fullmatch(path):
            numbered.setdefault((shard["prefix"], shard["count"]), []).append(path)
        else:
            yield (path,)
    yield from map(tuple, numbered.values())
