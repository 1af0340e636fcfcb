"""Locates a model's tensors from the headers of its safetensors files. Does not import numpy.

https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header of that length, then the data.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from modelshare.agent.convert.values import ConversionError, printable

TYPES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The types that can be converted, with their size in bytes."""
_MAX_HEADER: Final = 100 << 20
"""Same limit as in the safetensors library."""
_LENGTH_BYTES: Final = 8
_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


@dataclass(frozen=True, slots=True)
class Tensor:
    """The location of a tensor."""

    name: str
    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def open_weights(folder: Path) -> list[Tensor]:
    """All tensors of the model, ordered by name. Raises ConversionError."""
    tensors = [tensor for file in _files(folder) for tensor in tensors_of(file)]
    return sorted(tensors, key=lambda tensor: tensor.name)


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConversionError(f"{index.name} is not an index of weights.") from error
    files = [folder / Path(name).name for name in names]
    if missing := next((file for file in files if not file.is_file()), None):
        raise ConversionError(f"{printable(missing.name)} is missing.")
    return files


def tensors_of(file: Path) -> list[Tensor]:
    """The tensors of one file. Raises ConversionError."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if length > min(_MAX_HEADER, size):
            raise _damaged(file)
        text = opened.read(length)
    try:
        header = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(file) from error
    data = _LENGTH_BYTES + length
    return [_tensor(name, file, data, size, entry) for name, entry in entries.items()]


def _tensor(name: str, file: Path, data: int, size: int, entry: _Entry) -> Tensor:
    start, end = entry.data_offsets
    width = TYPES.get(entry.dtype)
    if data + end > size or start > end or (width and math.prod(entry.shape) * width != end - start):
        raise _damaged(file)
    return Tensor(name, file, data + start, entry.dtype, entry.shape)


def _damaged(file: Path) -> ConversionError:
    return ConversionError(f"{printable(file.name)} is not a complete safetensors file.")
