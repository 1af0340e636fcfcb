"""What of a version is opened: the model that its facts name, or another of its choices.

Versions that were processed before facts named more than `weights` are read the same: their folder is that of the
weights, and other weights beside them stay closed. `revalidate` brings their choices and companions up to date.
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
    """A model of a version, as an agent is told of it."""

    file: str
    """Names it among the choices; empty for the version's own."""
    root: str
    weights: tuple[str, ...]
    """Empty where the facts do not say."""
    format: str
    architecture: str | None
    task: str
    parameters: int | None
    context_length: int | None
    closed: frozenset[str] | None
    """Files that no engine is given; None where the facts do not say."""

    def needed(self, files: Iterable[File]) -> list[File]:
        """Those that an engine needs: the weights, and what else lies in the model's folder."""
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
    """The models among the files, the version's own first; empty where there is one alone."""
    return list(version.facts.get("choices") or ())


def own_file(version: VersionRow) -> str | None:
    """The file that names the version's own model."""
    return next(iter(version.facts.get("weights") or ()), None)


def find(version: VersionRow, file: str | None) -> FileSelection | None:
    """The model that `file` is part of (None: the version's own); None where there is no such choice."""
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
        root=version.facts.get("root", _root_of_old(version, weights)),
        weights=weights,
        format=version.format or "",
        architecture=version.architecture,
        task=version.task or "",
        parameters=version.parameters,
        context_length=version.context_length,
        closed=None if companions is None else frozenset(companions),
    )


def _root_of_old(version: VersionRow, weights: tuple[str, ...]) -> str:
    """The folder of the weights; the top where sentence-transformers' list of modules lies there."""
    if not weights or b'"path":"modules.json"' in (version.manifest or b""):
        return ""
    return posixpath.dirname(weights[0])
