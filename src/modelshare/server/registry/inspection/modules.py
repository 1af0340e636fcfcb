"""The paths of the parts of a sentence-transformers model, from its modules.json."""

import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from modelshare.embedder import MODULES, Module, UnreadableError, read_modules
from modelshare.server.registry.inspection.embedding import model_files
from modelshare.server.registry.inspection.reader import RangeReader

# Default names of layers, such as 2_Dense, for models without a modules.json
_LAYER = re.compile(r"[0-9]+_(?!Transformer/)[A-Za-z]+/model\.safetensors")


@dataclass(frozen=True, slots=True)
class Modules:
    root: str
    """The folder of modules.json."""
    transformer: str
    """The folder of the transformer: its config.json, tokenizer and weights."""
    layers: tuple[str, ...] = ()
    """Weights of the layers after it."""


def modules_of(files: Mapping[str, RangeReader], weights: Collection[str]) -> list[Modules]:
    """One for every readable modules.json; for layers in the top folder also without one there."""
    roots = [posixpath.dirname(path) for path in files if posixpath.basename(path) == MODULES]
    found = [modules for root in roots if (modules := _read(root, files, weights))]
    layers = tuple(sorted(path for path in weights if _LAYER.fullmatch(path)))
    return [*found, Modules("", "", layers)] if layers and "" not in roots else found


def _read(root: str, files: Mapping[str, RangeReader], weights: Collection[str]) -> Modules | None:
    try:
        modules = [*(read_modules(model_files(files, root)) or ())]
    except UnreadableError:  # reported with the facts of the described model
        return None
    transformer = next((module for module in modules if _is_transformer(module)), None)
    if transformer is None:
        return None
    layers = [posixpath.join(root, module.path("model.safetensors")) for module in modules if module is not transformer]
    folder = posixpath.join(root, transformer.folder).rstrip("/")
    return Modules(root, folder, tuple(dict.fromkeys(path for path in layers if path in weights)))


def _is_transformer(module: Module) -> bool:
    return module.kind == "Transformer" or module.type.endswith("Transformer")
