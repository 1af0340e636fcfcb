"""Reads headers of safetensors files, with the checks of the `safetensors` library.

Format: https://github.com/huggingface/safetensors#format
Where this is stricter than the `safetensors` library, docs/decisions/0024-checks-of-readers.md says why.
"""

import math
import operator
import posixpath
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from modelshare.server.registry.inspection.json_file import is_unicode, parse_unambiguous_object, read_object
from modelshare.server.registry.inspection.reader import RangeReader, check_no_pointer, piece
from modelshare.server.registry.refused import ModelRejectedError, printable

EXTENSION = ".safetensors"
INDEX_EXTENSION = ".safetensors.index.json"

_MAX_HEADER_BYTES = 100_000_000  # MAX_HEADER_SIZE of the format's reader
_MAX_DIMENSIONS = 64  # NumPy's limit
_LENGTH_BYTES = 8

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the end of the header
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(name: str, reader: RangeReader) -> dict[str, Tensor]:
    """The file's tensors by name. Raises ModelRejectedError unless header and data match exactly."""
    check_no_pointer(name, reader)
    length = _header_length(name, reader)
    header = parse_unambiguous_object(name, piece(reader, _LENGTH_BYTES, length))
    _check_metadata(name, header.pop("__metadata__", None))
    if not is_unicode(header):
        raise _damaged(name, "the name of a tensor is not Unicode text")
    tensors = {key: _tensor(name, key, entry) for key, entry in header.items()}
    if not tensors:
        raise ModelRejectedError(
            f"{printable(name)} contains no tensors; export the model again and push the file that has its weights."
        )
    _check_layout(name, tensors.values(), data_bytes=reader.size - _LENGTH_BYTES - length)
    return tensors


def shards_of_index(
    index: str,
    files: Mapping[str, RangeReader],
    headers: Mapping[str, Mapping[str, Tensor]],
    unread: Container[str] = (),
) -> tuple[str, ...]:
    """The weights files in an index, sorted. Raises ModelRejectedError if one is missing or lacks a tensor mapped to
    it.

    `unread`: files whose tensors are not known.
    """
    weight_map = read_object(index, files[index], _MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelRejectedError(
            f"{printable(index)} has no weight_map; export the model again so that the index is complete."
        )
    folder = posixpath.dirname(index)
    shards = set()
    for tensor, shard in weight_map.items():
        name = posixpath.normpath(shard) if isinstance(shard, str) else str(shard)
        path = posixpath.join(folder, name)
        if posixpath.dirname(name):
            raise ModelRejectedError(
                f"{printable(index)} refers to the file {printable(str(shard))} in another folder; put the shards next "
                "to the index."
            )
        if path not in headers:
            raise ModelRejectedError(
                f"{printable(index)} refers to the file {printable(str(shard))}, which is missing; push it too."
            )
        if tensor not in headers[path] and path not in unread:
            raise ModelRejectedError(
                f"{printable(path)} lacks the tensor {printable(tensor)} that {printable(index)} assigns to it; "
                "push both again."
            )
        shards.add(path)
    return tuple(sorted(shards))


def _header_length(name: str, reader: RangeReader) -> int:
    if reader.size <= _LENGTH_BYTES:
        raise ModelRejectedError(
            f"{printable(name)} is {'empty' if not reader.size else 'truncated'}; export it and push it again."
        )
    length = int.from_bytes(reader.read_at(0, _LENGTH_BYTES), "little")
    if length > _MAX_HEADER_BYTES:
        raise ModelRejectedError(
            f"{printable(name)} states a header of {length:,} bytes, but the format allows {_MAX_HEADER_BYTES:,}; "
            "it is damaged or not safetensors: export it and push it again."
        )
    if length > reader.size - _LENGTH_BYTES:
        raise ModelRejectedError(
            f"{printable(name)} states a header of {length:,} bytes but has only {reader.size:,}; it is truncated: "
            "export it and push it again."
        )
    return length


def _check_metadata(file: str, metadata: Any) -> None:
    """Free-form metadata must be a mapping of texts, or absent."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise _damaged(file, "its __metadata__ is not an object of strings")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _damaged(file, f"{printable(key)} in its __metadata__ is not a string")
        if not is_unicode((key, value)):
            raise _damaged(file, "its __metadata__ is not Unicode text")


def _tensor(file: str, name: str, entry: Any) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)], **rest} if not rest:
            pass
        case _:
            raise _damaged(file, f"the entry of tensor {printable(name)} is malformed")
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise ModelRejectedError(
            f"{printable(file)} uses the unknown type {printable(dtype)}; convert its tensors to a supported type."
        )
    if len(shape) > _MAX_DIMENSIONS or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise _damaged(file, f"the shape of tensor {printable(name)} is malformed")
    if max(accumulate(shape, operator.mul), default=1) >> 64:  # also where a later size is zero
        raise _damaged(file, f"the shape of tensor {printable(name)} is malformed")
    if isinstance(start, bool) or isinstance(end, bool) or math.prod(shape) * bits != (end - start) * 8:
        raise _damaged(file, f"the bytes of tensor {printable(name)} do not match its shape and type")
    return Tensor(name, dtype, tuple(shape), start, end)


def _check_layout(name: str, tensors: Iterable[Tensor], data_bytes: int) -> None:
    expected = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != expected:
            raise _damaged(name, f"tensor {printable(tensor.name)} leaves a gap or overlaps another")
        expected = tensor.end
    if expected > data_bytes:
        raise ModelRejectedError(
            f"{printable(name)} is truncated: {expected - data_bytes:,} bytes of tensors are missing; push it again."
        )
    if expected < data_bytes:
        raise _damaged(name, f"{data_bytes - expected:,} bytes at its end belong to no tensor")


def _damaged(file: str, what: str) -> ModelRejectedError:
    return ModelRejectedError(
        f"{printable(file)} is not a valid safetensors file ({what}); export it and push it again."
    )
