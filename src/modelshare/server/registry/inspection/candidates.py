"""The models among the files of a version, and the order in which they are preferred."""

from collections.abc import Callable
from dataclasses import dataclass

from modelshare.server.registry.inspection.facts import Facts, Format


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Files that make up one model."""

    format: Format
    root: str
    weights: tuple[str, ...]
    index: str | None = None
    has_config: bool = False
    """Whether it has a config.json, which safetensors need."""
    facts: Callable[[], Facts]
    """Raises `Refused`."""
    is_variant: bool = False
    """Whether it is a variant of the model in its folder, for example in half precision."""
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        return frozenset((*self.weights, self.index) if self.index else self.weights)


def order(candidate: Candidate) -> tuple[object, ...]:
    """Sort key: safetensors with a config.json, then GGUF, then other safetensors; then fewest folders deep; then by
    folder, and within a folder the plain form before variants.
    """
    kind = 1 if candidate.format is Format.GGUF else 0 if candidate.has_config else 2
    *folders, name = candidate.weights[0].split("/")
    depth = candidate.root.count("/") + bool(candidate.root)
    return kind, depth, folders, candidate.is_variant, name
