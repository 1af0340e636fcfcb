"""Tensors of safetensors files, one at a time. Read here because the library's numpy side knows no bfloat16.

https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header of that length, then the data.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelshare.agent.convert.source import ConversionError

Array = NDArray[np.float32]

_TYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER: Final = 100 << 20
"""As the library's own limit."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor is."""

    name: str
    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def check(self) -> None:
        """Raises ConversionError for a type that `load` does not know."""
        if self.dtype not in _TYPES:
            raise ConversionError(f"{self.name} is stored as {self.dtype}; only {', '.join(_TYPES)} are converted.")

    def load(self) -> Array:
        """The values; bfloat16 is the upper half of a float32."""
        raw: NDArray[Any] = np.fromfile(self.file, _TYPES[self.dtype], math.prod(self.shape), offset=self.offset)
        if self.dtype == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False).reshape(self.shape)


def open_weights(folder: Path) -> list[Tensor]:
    """All tensors of the model, in the order of their names. Raises ConversionError."""
    tensors = [tensor for file in _files(folder) for tensor in _tensors(file)]
    return sorted(tensors, key=lambda tensor: tensor.name)


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    files = [folder / Path(name).name for name in names]
    if missing := next((file for file in files if not file.is_file()), None):
        raise ConversionError(f"{missing.name} is missing.")
    return files


def _tensors(file: Path) -> list[Tensor]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _MAX_HEADER:
            raise ConversionError(f"{file.name} is no safetensors file.")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return [
        Tensor(name, file, 8 + length + entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
        for name, entry in header.items()
    ]
