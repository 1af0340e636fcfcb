"""Where the parts of a sentence-transformers model lie, as its modules.json says."""

import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from modelshare.server.registry.inspection.reader import RangeReader, head

MODULES = "modules.json"
_MAX_BYTES = 1 << 20
# Layers as they are named by default, such as 2_Dense, for models without a modules.json
_LAYER = re.compile(r"[0-9]+_(?!Transformer/)[A-Za-z]+/model\.safetensors")


class _Module(msgspec.Struct):
    path: str
    type: str


@dataclass(frozen=True, slots=True)
class Modules:
    root: str
    """The folder of modules.json."""
    transformer: str
    """The folder of the transformer: its config.json, tokenizer and weights."""
    layers: tuple[str, ...] = ()
    """Weights of what comes after it."""


def modules_of(files: Mapping[str, RangeReader], weights: Collection[str]) -> list[Modules]:
    """Of every modules.json that can be read; and of the layers at the top, where none is there."""
    roots = [posixpath.dirname(path) for path in files if posixpath.basename(path) == MODULES]
    found = [modules for root in roots if (modules := _read(root, files, weights))]
    layers = tuple(sorted(path for path in weights if _LAYER.fullmatch(path)))
    return [*found, Modules("", "", layers)] if layers and "" not in roots else found


def _read(root: str, files: Mapping[str, RangeReader], weights: Collection[str]) -> Modules | None:
    try:
        modules = msgspec.json.decode(head(files[posixpath.join(root, MODULES)], _MAX_BYTES), type=list[_Module])
    except (ValueError, RecursionError):
        return None
    folders = [posixpath.join(root, module.path).rstrip("/") for module in modules]
    transformers = [n for n, module in enumerate(modules) if module.type.endswith("Transformer")]
    if not transformers:
        return None
    transformer = folders.pop(transformers[0])
    layers = [posixpath.join(folder, "model.safetensors") for folder in folders]
    return Modules(root, transformer, tuple(dict.fromkeys(path for path in layers if path in weights)))
