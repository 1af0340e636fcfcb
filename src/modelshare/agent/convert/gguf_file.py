"""Writes a model as one GGUF file, tensor by tensor."""

import os
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from modelshare.agent.convert.headers import open_weights
from modelshare.agent.convert.network import OutTensor, out_tensors, write_network
from modelshare.agent.convert.numbers import read_numbers
from modelshare.agent.convert.rules import why_not
from modelshare.agent.convert.source import TensorSource
from modelshare.agent.convert.values import ConversionError
from modelshare.agent.convert.vocabulary import write_vocabulary


class WeightType(StrEnum):
    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


_TYPES: Final = {
    WeightType.F32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    WeightType.F16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    WeightType.Q8_0: (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def convert(folder: Path, target: Path, weight_type: WeightType) -> None:
    """Writes the model in `folder` to `target` atomically. Raises ConversionError.

    Memory is bounded by the largest tensor, as float32 and in the output type.
    """
    source = TensorSource.read(folder)
    if reason := why_not(source):
        raise ConversionError(reason)
    part = target.with_name(target.name + ".part")
    too_large: set[str] = set()
    while True:
        try:
            _write(source, part, weight_type, exact=too_large)
            break
        except _TooLargeForHalfError as error:
            too_large.add(str(error))
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.rename(target)


class _TooLargeForHalfError(Exception):
    """The tensor of this name has a value outside the range of float16, so it must be stored as float32."""


def _write(source: TensorSource, path: Path, weight_type: WeightType, *, exact: Collection[str]) -> None:
    numbers = read_numbers(source)
    tensors = list(out_tensors(source, numbers, open_weights(source.folder)))
    kinds = [_kind(tensor, weight_type, exact) for tensor in tensors]
    writer = gguf.GGUFWriter(path, source.gguf_architecture)
    try:
        writer.add_file_type(_TYPES[weight_type][1])
        write_network(writer, source, numbers)
        write_vocabulary(writer, source, numbers)
        for tensor, kind in zip(tensors, kinds, strict=True):
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), _bytes(tensor, kind), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(tensors, kinds, strict=True):
            writer.write_tensor_data(_encoded(tensor, kind))
    finally:
        writer.close()


def _kind(tensor: OutTensor, weight_type: WeightType, exact: Collection[str]) -> gguf.GGMLQuantizationType:
    if tensor.exact or tensor.name in exact:
        return gguf.GGMLQuantizationType.F32
    kind = _TYPES[weight_type][0]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if tensor.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _bytes(tensor: OutTensor, kind: gguf.GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(tensor.shape, dtype=np.int64)) // block * size


def _encoded(tensor: OutTensor, kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    values = tensor.load()
    if kind is gguf.GGMLQuantizationType.F16 and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise _TooLargeForHalfError(tensor.name)
    encoded: NDArray[Any] = gguf.quants.quantize(values, kind)
    return encoded
