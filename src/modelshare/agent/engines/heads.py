"""Computes the layers after the pooling of an embedding model, which no engine computes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from modelshare.agent.convert.headers import TYPES, Tensor, tensors_of
from modelshare.agent.convert.values import ConversionError, printable
from modelshare.agent.convert.weights import Array, load
from modelshare.embedder import Embedder, Layer

_EPSILON: Final = 1e-5
"""As in torch's LayerNorm."""
_SMALLEST: Final = 1e-12
"""Torch's normalize uses this as the minimum length."""


class VectorHead:
    """The layers of one model. Thread-safe."""

    def __init__(self, root: Path, embedder: Embedder, width: int) -> None:
        """`width`: the length of pooled vectors. Raises ConversionError."""
        self._layers: list[tuple[Layer, Array, Array]] = []
        self._dimensions = embedder.dimensions
        for layer in embedder.layers:
            if layer.width not in (0, width):
                raise ConversionError(f"its {layer.kind} layer expects {layer.width} numbers, but gets {width}.")
            width = layer.out or width
            self._layers.append((layer, *_weights(root, layer)))

    def applied(self, vector: Sequence[float]) -> tuple[float, ...]:
        """Computes a text's vector from its pooled one."""
        values: Array = np.asarray(vector, dtype=np.float32)
        for layer, weight, bias in self._layers:
            values = _computed(layer, weight, bias, values)
        return tuple(values[: self._dimensions].tolist())


def _computed(layer: Layer, weight: Array, bias: Array, values: Array) -> Array:
    if layer.kind == "Normalize":
        unit: Array = values / np.maximum(np.linalg.norm(values), np.float32(_SMALLEST))
        return unit
    if layer.kind == "LayerNorm":
        centred = values - values.mean()
        normed: Array = centred / np.sqrt((centred**2).mean() + np.float32(_EPSILON)) * weight + bias
        return normed
    linear: Array = weight @ values + bias
    match layer.activation:
        case "tanh":
            return np.tanh(linear)
        case "relu":
            return np.maximum(linear, np.float32(0))
        case "sigmoid":
            return np.float32(1) / (np.float32(1) + np.exp(-linear))
        case _:
            return linear


def _weights(root: Path, layer: Layer) -> tuple[Array, Array]:
    nothing: Array = np.zeros(1, np.float32)
    if layer.kind == "Normalize":
        return nothing, nothing
    found = {tensor.name: tensor for tensor in tensors_of(root / layer.weights)}
    name, shape = ("norm", (layer.width,)) if layer.kind == "LayerNorm" else ("linear", (layer.out, layer.width))
    weight = _loaded(found, layer, f"{name}.weight", shape)
    return weight, _loaded(found, layer, f"{name}.bias", shape[:1]) if layer.bias else nothing


def _loaded(found: dict[str, Tensor], layer: Layer, name: str, shape: tuple[int, ...]) -> Array:
    tensor = found.get(name)
    if tensor is None or tensor.shape != shape or tensor.dtype not in TYPES:
        raise ConversionError(f"its {layer.kind} layer has no tensor {name} of the shape {printable(shape)}.")
    return load(tensor)
