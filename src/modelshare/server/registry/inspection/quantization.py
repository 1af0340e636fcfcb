"""The quantization of a model's weights: its name, and the number of parameters that the stored elements represent."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelshare.server.registry.inspection.plain import plain_text, positive_integer
from modelshare.server.registry.inspection.safetensors import DTYPE_BITS, Tensor

# Scales, zero points and the like, which accompany quantized weights and are not parameters of the model.
_BESIDE_WEIGHTS = re.compile(
    r"(scales?|scale_inv|scale_2|qzeros|zeros?|zero_point|g_idx|absmax|quant_map|bitsandbytes__\w+|SCB|weight_shape|biases)$"
)
_BUFFER_DTYPES = frozenset({"BOOL", "I16", "U16", "I32", "U32", "I64", "U64", "F8_E8M0"})  # position ids, masks, scales
_PACKED_DTYPES = frozenset({"U8", "I8", "I32", "U32"})
_MAX_BITS = 16


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization named in config.json. `packed_bits`: bits per weight if a stored integer contains several."""

    label: str
    packed_bits: int | None = None


def scheme_of(config: Mapping[str, Any]) -> Scheme | None:
    """The scheme in config.json, in the form of Transformers or MLX."""
    quantized = config.get("quantization_config") or config.get("compression_config")
    if isinstance(quantized, dict):
        return _transformers_scheme(quantized)
    mlx = config.get("quantization")
    if isinstance(mlx, dict) and (bits := _bits(mlx.get("bits"))):
        return Scheme(f"mlx-{bits}bit", bits)
    return None


def stored_as(tensors: Iterable[Tensor]) -> str | None:
    """The data type of most weights: F32, BF16, fp8."""
    elements = Counter[str]()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
    weights = Counter({dtype: n for dtype, n in elements.items() if dtype not in _BUFFER_DTYPES}) or elements
    dtype = max(sorted(weights), key=weights.__getitem__, default=None)
    return "fp8" if dtype is not None and dtype.startswith("F8_") else dtype


def count_parameters(tensors: Iterable[Tensor], scheme: Scheme | None) -> int:
    """Number of parameters before quantization, not counting integer buffers such as position IDs."""
    return sum(_parameters(tensor, scheme) for tensor in tensors)


def _transformers_scheme(config: Mapping[str, Any]) -> Scheme | None:
    method = plain_text(config.get("quant_method"), 40)
    if method == "compressed-tensors":
        return _compressed_tensors(config)
    if method == "bitsandbytes" or (method is None and "load_in_4bit" in config):
        return Scheme("bnb-4bit", 4) if config.get("load_in_4bit") is True else Scheme("bnb-8bit")
    if method in {"gptq", "awq"} and (bits := _bits(config.get("bits", config.get("w_bit")))):
        return Scheme(f"{method}-{bits}bit", bits)
    four_bit_floats = "nvfp4" if config.get("quant_algo") == "NVFP4" else method
    if four_bit_floats in {"nvfp4", "mxfp4"}:
        return Scheme(four_bit_floats, 4)
    return Scheme("fp8" if "fp8" in method else method) if method else None


def _compressed_tensors(config: Mapping[str, Any]) -> Scheme:
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and (bits := _bits(weights.get("num_bits"))):
            if weights.get("type") == "float":
                return Scheme("fp8") if bits == 8 else Scheme(f"fp{bits}", bits)  # noqa: PLR2004 - eight bits
            packed = "pack" in str(config.get("format"))
            return Scheme(f"compressed-tensors-{bits}bit", bits if packed else None)
    return Scheme("compressed-tensors")


def _bits(value: object) -> int | None:
    bits = positive_integer(value)
    return bits if bits and bits <= _MAX_BITS else None


def _parameters(tensor: Tensor, scheme: Scheme | None) -> int:
    if scheme is not None:
        if _BESIDE_WEIGHTS.search(tensor.name):
            return 0
        if scheme.packed_bits and tensor.dtype in _PACKED_DTYPES and len(tensor.shape) > 1:
            return math.prod(tensor.shape) * DTYPE_BITS[tensor.dtype] // scheme.packed_bits
    return 0 if tensor.dtype in _BUFFER_DTYPES else tensor.elements
