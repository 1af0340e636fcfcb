"""What becomes of a text's vector after the pooling: Dense, LayerNorm and Normalize, in the order of the modules."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelshare.embedder.files import ModelFiles, UnreadableError, printable, truth, whole_number
from modelshare.embedder.modules import MODULES, Module

_WEIGHTS: Final = "model.safetensors"
_PICKLE: Final = "pytorch_model.bin"
_SENTENCE: Final = "sentence_embedding"
_ACTIVATIONS: Final = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "identity",
}
_USUAL: Final = "torch.nn.modules.activation.Tanh"
_KNOWN: Final = {
    *("in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"),
    *("use_residual", "dimension"),
}


@dataclass(frozen=True, slots=True)
class Layer:
    kind: str
    """`Dense`, `LayerNorm` or `Normalize`."""
    weights: str = ""
    """The path of its weights, relative to the model's folder."""
    width: int = 0
    """Of what it takes; 0 for any."""
    out: int = 0
    """Of what it gives; 0 for the same."""
    bias: bool = True
    activation: str = "identity"


def read_layer(files: ModelFiles, module: Module) -> Layer | str:
    """The layer, or why it is not computed here, in a sentence. Raises UnreadableError."""
    path = module.path("config.json")
    settings = files.settings(path)
    if not _of_sentences(settings):
        return f"its {module.kind} layer does not work on the text's vector."
    if module.kind == "Normalize":
        return Layer("Normalize")
    if not files.has(path):
        raise UnreadableError(f"{MODULES} needs {printable(path)}, which is missing; push it too.")
    if not any(files.has(module.path(name)) for name in (_WEIGHTS, _PICKLE)):
        raise UnreadableError(f"{MODULES} needs {printable(module.path(_WEIGHTS))}, which is missing; push it too.")
    layer = _layer_norm(module, path, settings) if module.kind == "LayerNorm" else _dense(module, path, settings)
    if isinstance(layer, str):
        return layer
    if not files.has(layer.weights):
        return f"its {module.kind} layer is stored as a pickle, which is not opened here."
    if unknown := sorted(settings.keys() - _KNOWN):
        return f"its {module.kind} layer sets {printable(unknown[0])}, whose effect is unknown."
    return layer


def _dense(module: Module, path: str, settings: Mapping[str, Any]) -> Layer | str:
    activation = settings.get("activation_function", _USUAL)
    if not isinstance(activation, str):
        raise UnreadableError(f"{printable(path)}: activation_function is {printable(activation)}, but must be a name.")
    width, out = (_needed(path, settings, key) for key in ("in_features", "out_features"))
    if activation not in _ACTIVATIONS:
        return f"its Dense layer's activation is {printable(activation)}, which is not supported."
    if truth(path, settings, "use_residual", default=False):
        return "its Dense layer has a residual connection, which is not supported."
    bias = truth(path, settings, "bias", default=True)
    return Layer("Dense", module.path(_WEIGHTS), width, out, bias, _ACTIVATIONS[activation])


def _layer_norm(module: Module, path: str, settings: Mapping[str, Any]) -> Layer:
    width = _needed(path, settings, "dimension")
    return Layer("LayerNorm", module.path(_WEIGHTS), width, width)


def _needed(path: str, settings: Mapping[str, Any], key: str) -> int:
    value = whole_number(path, settings, key)
    if value is None:
        raise UnreadableError(f"{printable(path)} does not set its {key}; save the model again.")
    return value


def _of_sentences(settings: Mapping[str, Any]) -> bool:
    names = (settings.get("module_input_name"), settings.get("module_output_name"))
    return all(name in (None, _SENTENCE) for name in names)
