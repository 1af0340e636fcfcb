"""Small model files, built byte by byte."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelshare.server.registry.inspection import Facts, ModelRejectedError, inspect
from modelshare.server.registry.inspection.gguf_types import SCALARS, TENSOR_TYPES, ValueType
from modelshare.server.registry.inspection.safetensors import DTYPE_BITS

TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


class MemoryReader:
    """A file in memory that fails the test when it is read outside its bounds, and counts what is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length > 0
        assert offset + length <= self.size
        self.bytes_read += length
        return self.data[offset : offset + length]


class HugeReader(MemoryReader):
    """A file whose start is given and whose rest is said to be zeros, however long."""

    def __init__(self, start: bytes, size: int) -> None:
        super().__init__(start)
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset + length <= self.size
        self.bytes_read += length
        assert self.bytes_read < 300 << 20
        return self.data[offset : offset + length].ljust(length, b"\0")


def inspect_bytes(files: Mapping[str, bytes], *, allow_pickle: bool = False, file: str | None = None) -> Facts:
    readers = {path: MemoryReader(data) for path, data in files.items()}
    return inspect(readers, allow_pickle=allow_pickle, file=file)


def reason_of(files: Mapping[str, bytes]) -> str | None:
    """Why the files are refused, which must be fit to show; None where they are not."""
    try:
        inspect_bytes(files)
    except ModelRejectedError as refused:
        reason = refused.reason
    else:
        return None
    assert reason.isprintable()
    assert reason.endswith(".")
    assert len(reason) < 600
    return reason


def safetensors_file(tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Any = None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return safetensors_from(header, bytes(end))


def safetensors_from(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@dataclass(frozen=True)
class Typed:
    """A metadata value of a stated GGUF type; for arrays, `items` tells the type of each."""

    type: ValueType
    value: Any
    items: ValueType = ValueType.STRING


def gguf_file(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, Sequence[int]]],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """Plain values are written as strings, 32-bit integers, floats, booleans and arrays of strings."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        header += _text(key) + _typed(value)
    offset = 0
    for name, (dtype, shape) in tensors.items():
        header += _text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape)
        header += struct.pack("<IQ", TYPE_NUMBERS[dtype], offset)
        _, elements, size = TENSOR_TYPES[TYPE_NUMBERS[dtype]]
        offset += _padded(math.prod(shape) // elements * size, alignment)
    return header.ljust(_padded(len(header), alignment), b"\0") + bytes(offset)


def llama_gguf(**extra: Any) -> bytes:
    metadata = {"general.architecture": "llama", "general.file_type": 15, "llama.context_length": 4096} | extra
    return gguf_file(metadata, {"token_embd.weight": ("Q4_K", [256, 8]), "output_norm.weight": ("F32", [256])})


def _typed(value: Any) -> bytes:
    if not isinstance(value, Typed):
        plain = {bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32, str: ValueType.STRING}
        value = Typed(plain.get(type(value), ValueType.ARRAY), value)
    if value.type is not ValueType.ARRAY:
        return struct.pack("<I", value.type) + _scalar(value.type, value.value)
    items = b"".join(_scalar(value.items, item) for item in value.value)
    return struct.pack("<IIQ", ValueType.ARRAY, value.items, len(value.value)) + items


def _scalar(value_type: ValueType, value: Any) -> bytes:
    return _text(value) if value_type is ValueType.STRING else SCALARS[value_type].pack(value)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
