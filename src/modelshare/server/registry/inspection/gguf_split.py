"""GGUF models split into several files, NAME-00001-of-00003.gguf, as llama-gguf-split writes them."""

import re
from collections.abc import Iterable, Mapping, Sequence

from modelshare.server.registry.inspection.gguf import Header
from modelshare.server.registry.refused import ModelRejectedError, printable

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.IGNORECASE)


def is_part(path: str) -> bool:
    """Whether its name is that of a part."""
    return _SHARD.fullmatch(path) is not None


def group_shards(headers: Mapping[str, Header]) -> list[tuple[str, ...]]:
    """The files of each model, sorted, in order of parts. Raises ModelRejectedError if a part is missing."""
    groups: dict[tuple[str, int], dict[int, str]] = {}
    whole = []
    for path, header in headers.items():
        number, count = _place_in_split(path, header)
        if shard := _SHARD.fullmatch(path):
            groups.setdefault((shard["prefix"], count), {})[number] = path
        else:
            whole.append((path,))
    split = [_complete(prefix, count, parts) for (prefix, count), parts in groups.items()]
    for parts in split:
        _check_tensors(parts, headers)
    return sorted([*whole, *split])


def _place_in_split(path: str, header: Header) -> tuple[int, int]:
    """Part number from 1, and number of parts; name and metadata must agree, since llama.cpp checks both."""
    count = header.integer("split.count") or 1
    number = (header.integer("split.no") or 0) + 1
    shard = _SHARD.fullmatch(path)
    named = (int(shard["number"]), int(shard["count"])) if shard else (1, 1)
    if named != (number, count):
        raise ModelRejectedError(
            f"{printable(path)} is part {number} of {count} according to its metadata but not its name; push the "
            "parts under the names that llama-gguf-split gave them."
        )
    return named


def _complete(prefix: str, count: int, parts: Mapping[int, str]) -> tuple[str, ...]:
    missing: Iterable[int] = (number for number in range(1, count + 1) if number not in parts)
    if (first := next(iter(missing), None)) is not None:
        name = f"{prefix}-{first:05}-of-{count:05}.gguf"
        raise ModelRejectedError(f"{printable(name)} is missing, one of {count} parts of the model; push all of them.")
    return tuple(parts[number] for number in sorted(parts))


def _check_tensors(parts: Sequence[str], headers: Mapping[str, Header]) -> None:
    """Like llama.cpp: a tensor is in only one part, and the total is that stated in the first part."""
    names: set[str] = set()
    for path in parts:
        for tensor in headers[path].tensors:
            if tensor.name in names:
                raise ModelRejectedError(
                    f"{printable(path)} contains the tensor {printable(tensor.name)}, which another part has too; "
                    "split the model again."
                )
            names.add(tensor.name)
    stated = headers[parts[0]].integer("split.tensors.count")
    if stated is not None and stated != len(names):
        raise ModelRejectedError(
            f"{printable(parts[0])} states {stated:,} tensors, but the parts contain {len(names):,}; push all parts "
            "of one split."
        )
