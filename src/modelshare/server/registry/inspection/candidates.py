"""The models among the files of a version, and the rule which of them is opened."""

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
    """Whether a config.json says what the weights are, as safetensors need it."""
    facts: Callable[[], Facts]
    """Raises `Refused`."""
    is_variant: bool = False
    """Whether it is another form of the model that its folder holds."""
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        return frozenset((*self.weights, self.index) if self.index else self.weights)


def order(candidate: Candidate) -> tuple[object, ...]:
    """Which goes first: safetensors with a config.json, then GGUF, then other safetensors; the fewest folders deep; by
    name, folder after folder, and in one folder its plain form.
    """
    kind = 1 if candidate.format is Format.GGUF else 0 if candidate.has_config else 2
    *folders, name = candidate.weights[0].split("/")
    depth = candidate.root.count("/") + bool(candidate.root)
    return kind, depth, folders, candidate.is_variant, name
