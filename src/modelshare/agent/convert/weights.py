"""Loads the values of one tensor. Not from the safetensors library, whose numpy support lacks bfloat16."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from modelshare.agent.convert.headers import Tensor

Array = NDArray[np.float32]

_TYPES: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def load(tensor: Tensor) -> Array:
    """The values as float32; bfloat16 is the upper half of a float32."""
    raw: NDArray[Any] = np.fromfile(tensor.file, _TYPES[tensor.dtype], math.prod(tensor.shape), offset=tensor.offset)
    if tensor.dtype == "BF16":
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False).reshape(tensor.shape)
