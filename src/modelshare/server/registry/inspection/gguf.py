"""Reads headers of GGUF files, versions 2 and 3, with the checks of llama.cpp and the `gguf` package.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
Where this is stricter than both, docs/decisions/0024-checks-of-readers.md says why.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelshare.server.registry.inspection.gguf_types import SCALARS, TENSOR_TYPES, ValueType
from modelshare.server.registry.inspection.reader import Cursor, RangeReader, check_no_pointer, head
from modelshare.server.registry.refused import ModelRejectedError, printable

EXTENSION = ".gguf"
_ALIGNMENT = "general.alignment"

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME includes a zero byte
_MAX_KEY_BYTES = 65_535  # the format's limit
# Real headers have up to about 25 MiB (a vocabulary of 260,000 tokens and its merges), 1,000 keys and 10,000 tensors.
# These limits also bound the time to read them: about a second at most.
_MAX_HEADER_BYTES = 128 << 20
_MAX_KEYS = 16_384
_MAX_TENSORS = 65_536
_MAX_STRINGS = 4_000_000  # in arrays: they must be visited one by one
_MAX_KEPT_TEXT_BYTES = 1 << 20
_MAX_ALIGNMENT = 1 << 20

_KEPT_KEYS = re.compile(
    r"general\.[\w.]+|split\.[\w.]+|tokenizer\.chat_template|tokenizer\.ggml\.tokens"
    r"|[\w.-]+\.(context_length|pooling_type)"
)


@dataclass(frozen=True, slots=True)
class ArrayLength:
    """The length of an array in the metadata, whose values are not kept."""

    length: int


Value = str | int | float | bool | ArrayLength


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class Header:
    metadata: Mapping[str, Value]  # only the keys that facts are read from
    tensors: tuple[Tensor, ...]
    types: Mapping[str, ValueType] = field(default_factory=dict)  # of all keys

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if type(value) is int else None

    def length(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value.length if isinstance(value, ArrayLength) else None


@dataclass(frozen=True, slots=True)
class Examined:
    """A header, or as much of it as is readable."""

    header: Header
    tensor_count: int | None
    """As stated in the file."""
    refused: ModelRejectedError | None
    """The error, unless the header is complete and all tensors are within the file."""


def examine(name: str, reader: RangeReader) -> Examined:
    """Reads the file's metadata and list of tensors."""
    found = _HeaderReader(name, reader)
    try:
        _check_version(name, reader)
        return Examined(found.read(), found.tensor_count, None)
    except ModelRejectedError as refused:
        tensors = tuple(Tensor(each, dtype="", elements=0) for each in found.names)
        return Examined(Header(found.kept, tensors, found.types), found.tensor_count, refused)


def _check_version(name: str, reader: RangeReader) -> None:
    if not reader.size:
        raise ModelRejectedError(f"{printable(name)} is empty; export it and push it again.")
    check_no_pointer(name, reader)
    start = head(reader, 8)
    if start[:4] != _MAGIC:
        raise ModelRejectedError(
            f"{printable(name)} does not begin like a GGUF file; export it with a current tool and push it again."
        )
    if int.from_bytes(start[4:], "little") in _VERSIONS:
        return
    if int.from_bytes(start[4:], "big") in _VERSIONS:
        raise ModelRejectedError(f"{printable(name)} is a big-endian GGUF file; export it in little-endian order.")
    raise ModelRejectedError(
        f"{printable(name)} is not GGUF version 2 or 3; export it with a current tool and push it again."
    )


class _HeaderReader:
    """One pass over a header."""

    def __init__(self, name: str, reader: RangeReader) -> None:
        self._name = name
        self._size = reader.size
        self._cursor = Cursor(name, reader, _MAX_HEADER_BYTES)
        self._strings_left = _MAX_STRINGS
        self.tensor_count: int | None = None
        self.kept: dict[str, Value] = {}
        self.types: dict[str, ValueType] = {}
        self.names: list[str] = []

    def read(self) -> Header:
        self._cursor.skip(8)  # magic and version
        self.tensor_count = tensor_count = self._count("tensors", _MAX_TENSORS)
        key_count = self._count("metadata keys", _MAX_KEYS)
        self._metadata(key_count)
        return Header(self.kept, self._tensors(tensor_count, self._alignment()), self.types)

    def _count(self, what: str, limit: int) -> int:
        count = self._cursor.u64()
        if count > limit:
            raise self._damaged(f"it states {count:,} {what}")
        return count

    def _metadata(self, count: int) -> None:
        for _ in range(count):
            key = self._text("metadata key", _MAX_KEY_BYTES)
            if key in self.types:
                raise self._damaged(f"the key {printable(key)} appears twice")
            self.types[key] = value_type = self._value_type()
            if _KEPT_KEYS.fullmatch(key):
                self.kept[key] = self._value(value_type)
            else:
                self._skip_value(value_type)
        if "" in self.types:
            raise self._damaged("a metadata key is empty")

    def _alignment(self) -> int:
        alignment = self.kept.get(_ALIGNMENT, _DEFAULT_ALIGNMENT)
        if self.types.get(_ALIGNMENT, ValueType.UINT32) is not ValueType.UINT32:
            raise self._damaged("its alignment is not a 32-bit number")
        if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
            raise self._damaged("its alignment is not a power of two")
        return alignment

    def _text(self, what: str, limit: int) -> str:
        text = self._cursor.take(self._string_length(limit, what))
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise self._damaged(f"a {what} is not UTF-8") from None

    def _value_type(self) -> ValueType:
        number = self._cursor.u32()
        try:
            return ValueType(number)
        except ValueError:
            raise self._damaged(f"its metadata holds the unknown type {number}") from None

    def _value(self, value_type: ValueType) -> Value:
        if value_type is ValueType.STRING:
            text = self._cursor.take(self._string_length(_MAX_KEPT_TEXT_BYTES, "text"))
            return text.decode(errors="replace")
        if value_type is ValueType.ARRAY:
            return ArrayLength(self._skip_array())
        return self._cursor.scalar(SCALARS[value_type])

    def _skip_value(self, value_type: ValueType) -> None:
        if value_type is ValueType.STRING:
            self._cursor.skip(self._cursor.u64())
        elif value_type is ValueType.ARRAY:
            self._skip_array()
        else:
            self._cursor.skip(SCALARS[value_type].size)

    def _skip_array(self) -> int:
        item_type = self._value_type()
        count = self._cursor.u64()
        if layout := SCALARS.get(item_type):
            self._cursor.skip(count * layout.size)
            return count
        self._strings_left -= count
        if self._strings_left < 0 or item_type is ValueType.ARRAY:
            raise self._damaged("its metadata holds too large an array, or arrays in an array")
        self._cursor.skip_texts(count)
        return count

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        tensors: dict[str, Tensor] = {}
        data_end = 0  # bytes from the start of the data, without padding
        for _ in range(count):
            tensor, size = self._tensor_shape()
            as_in_c = tensor.name.partition("\0")[0]
            if as_in_c in tensors:
                raise self._damaged(f"the tensor {printable(as_in_c)} appears twice")
            tensors[as_in_c] = tensor
            # llama.cpp requires that each tensor starts at the first aligned byte after the previous one
            if self._cursor.u64() != _aligned(data_end, alignment):
                raise self._damaged(f"the tensor {printable(tensor.name)} leaves a gap or overlaps another")
            data_end = _aligned(data_end, alignment) + size
        missing = _aligned(self._cursor.position, alignment) + data_end - self._size
        if count and missing > 0:
            raise ModelRejectedError(
                f"{printable(self._name)} is truncated: {missing:,} bytes of tensors are missing; push it again."
            )
        return tuple(tensors.values())

    def _tensor_shape(self) -> tuple[Tensor, int]:
        """The next tensor's description, up to its offset, and its size in bytes."""
        name = self._text("tensor name", _MAX_TENSOR_NAME_BYTES)
        self.names.append(name)
        dimension_count = self._cursor.u32()
        if dimension_count > _MAX_DIMENSIONS:
            raise self._damaged(f"the tensor {printable(name)} states {dimension_count:,} dimensions")
        shape = [self._cursor.u64() for _ in range(dimension_count)]
        number = self._cursor.u32()
        if number not in TENSOR_TYPES:
            raise ModelRejectedError(
                f"{printable(self._name)} uses the unknown tensor type {number} for {printable(name)}; quantize it "
                "to a common type."
            )
        dtype, block_elements, block_bytes = TENSOR_TYPES[number]
        elements = math.prod(shape)
        if not elements and any(size >> 63 for size in shape):
            raise self._damaged(f"the tensor {printable(name)} states a negative size")
        if (shape[0] if shape else 1) % block_elements:
            raise self._damaged(f"the rows of tensor {printable(name)} are not whole blocks of {dtype}")
        return Tensor(name, dtype, elements), elements // block_elements * block_bytes

    def _string_length(self, limit: int, what: str) -> int:
        length = self._cursor.u64()
        if length > limit:
            raise self._damaged(f"it states a {what} of {length:,} bytes")
        return length

    def _damaged(self, what: str) -> ModelRejectedError:
        return ModelRejectedError(
            f"{printable(self._name)} is not a valid GGUF file ({what}); export it and push it again."
        )


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
