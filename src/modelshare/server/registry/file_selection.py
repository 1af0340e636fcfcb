"""Selects the files that an engine gets: those of the version's own model, or of another of its choices.

The facts of versions processed long ago contain only `weights`: their model is in the folder of the weights, and other
weights in it are not given to an engine. `revalidate` updates such facts.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from modelshare.server.registry.tables import VersionRow

_WEIGHTS: Final = (".safetensors", ".gguf")
_INDEX: Final = ".safetensors.index.json"
_SHARD: Final = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.safetensors$")


class _File(Protocol):
    @property
    def path(self) -> str: ...


File = TypeVar("File", bound=_File)


@dataclass(frozen=True, slots=True)
class FileSelection:
    """One of the models in a version, as sent to agents."""

    file: str
    """Its name among the choices; empty for the version's own model."""
    root: str
    weights: tuple[str, ...]
    """Empty if the facts do not contain them."""
    format: str
    architecture: str | None
    task: str
    parameters: int | None
    context_length: int | None
    closed: frozenset[str] | None
    """Files that no engine gets; None if the facts do not contain them."""

    def needed(self, files: Iterable[File]) -> list[File]:
        """The files that an engine needs: the weights, and others in the model's folder."""
        return [file for file in files if self._needs(file.path)]

    def _needs(self, path: str) -> bool:
        if not self.weights or path in self.weights:
            return True
        if self.root and not path.startswith(f"{self.root}/"):
            return False
        if self.closed is not None:
            return path not in self.closed and not (self.file and path.endswith(_INDEX))
        index = _SHARD.sub("", self.weights[0]) + _INDEX
        return not path.lower().endswith(_WEIGHTS) and (not path.endswith(_INDEX) or path == index)


def choices(version: VersionRow) -> list[Mapping[str, Any]]:
    """The models among the files, the version's own first; empty if there is only one."""
    return list(version.facts.get("choices") or ())


def own_file(version: VersionRow) -> str | None:
    """The first weights file of the version's own model."""
    return next(iter(version.facts.get("weights") or ()), None)


def find(version: VersionRow, file: str | None) -> FileSelection | None:
    """The model that `file` is part of (None: the version's own), or None if there is no such choice."""
    facts = version.facts
    weights = tuple(facts.get("weights") or ())
    if not file or file in weights:
        return _own(version, weights)
    choice = next((each for each in choices(version) if file in each["weights"]), None)
    if choice is None:
        return None
    return FileSelection(
        file=choice["file"],
        root=choice["root"],
        weights=tuple(choice["weights"]),
        format=choice["format"],
        architecture=choice["architecture"],
        task=choice["task"],
        parameters=choice["parameters"] or None,
        context_length=choice["context_length"],
        closed=frozenset(facts["companions"]) | {*weights},
    )


def _own(version: VersionRow, weights: tuple[str, ...]) -> FileSelection:
    companions = version.facts.get("companions")
    return FileSelection(
        file="",
        root=version.facts.get("root", _fallback_root(version, weights)),
        weights=weights,
        format=version.format or "",
        architecture=version.architecture,
        task=version.task or "",
        parameters=version.parameters,
        context_length=version.context_length,
        closed=None if companions is None else frozenset(companions),
    )


def _fallback_root(version: VersionRow, weights: tuple[str, ...]) -> str:
    """The folder of the weights, or the top folder if it contains the modules.json of sentence-transformers."""
    if not weights or b'"path":"modules.json"' in (version.manifest or b""):
        return ""
    return posixpath.dirname(weights[0])
