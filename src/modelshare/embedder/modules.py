"""`modules.json`: what sentence-transformers runs, in order, and in which folder each part lies."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, Final

from modelshare.embedder.files import ModelFiles, UnreadableError, printable

MODULES: Final = "modules.json"
_POOLING: Final = "1_Pooling"
"""Where pooling lies of a model that lost its `modules.json`."""
_LIBRARY: Final = "sentence_transformers."
_TRANSFORMERS_OF_OLD: Final = frozenset({"BERT", "ALBERT", "CamemBERT", "DistilBERT", "RoBERTa", "XLMRoBERTa", "XLNet"})
"""What the first releases had in place of `Transformer`: a class for each architecture."""


@dataclass(frozen=True, slots=True)
class Module:
    """One step from a text to its vector."""

    kind: str
    """`Transformer`, `Pooling`, ...; empty for code that comes with the model."""
    type: str
    """As it is written, fit for a sentence."""
    folder: str
    """Relative to the model's; empty where it lies at its top."""

    def path(self, name: str) -> str:
        return posixpath.join(self.folder, name)


def read_modules(files: ModelFiles) -> Sequence[Module] | None:
    """The modules in order; None for a model that declares none. Raises UnreadableError."""
    if not files.has(MODULES):
        if not files.has(f"{_POOLING}/config.json"):
            return None
        return (Module("Transformer", "Transformer", ""), Module("Pooling", "Pooling", _POOLING))
    listed = files.json(MODULES)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UnreadableError(f"{MODULES} is not a list of modules; save the model with sentence-transformers again.")
    names = [entry["name"] for entry in listed if "name" in entry]
    if len(set(map(str, names))) < len(names):
        raise UnreadableError(f"{MODULES} gives two modules the same name; save the model again.")
    return tuple(_module(entry) for entry in listed)


def _module(entry: Mapping[str, Any]) -> Module:
    type_ = _text(entry, "type")
    kind = type_.rpartition(".")[2] if type_.startswith(_LIBRARY) else ""
    return Module("Transformer" if kind in _TRANSFORMERS_OF_OLD else kind, printable(type_), _folder(entry))


def _folder(entry: Mapping[str, Any]) -> str:
    path = _text(entry, "path")
    parts = PureWindowsPath(path)
    if parts.anchor or ".." in parts.parts or "\\" in path or "\0" in path:
        raise UnreadableError(f"{MODULES} names the folder {printable(path)}, which is outside the model's folder.")
    folder = posixpath.normpath(path)
    return "" if folder == "." else folder


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise UnreadableError(f"{MODULES} has a module without a {key}; save the model again.")
    return value
