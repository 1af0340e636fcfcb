"""Which engine serves a model on this machine, and why the others do not. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from modelshare.agent.engines.base import EngineKind, Format, Task


@dataclass(frozen=True, slots=True)
class Machine:
    """What the operator's machine has."""

    installed: frozenset[EngineKind]
    """External: a server is configured."""
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    candidates: tuple[EngineKind, ...]
    """Those that can serve the model, the best first; none where no engine of this machine can."""
    converts: bool
    """For the best of them the weights become GGUF first."""
    why_not: Mapping[EngineKind, str]
    """A sentence for each engine that cannot."""

    @property
    def engine(self) -> EngineKind | None:
        """The best; None where no engine of this machine can serve the model."""
        return next(iter(self.candidates), None)

    @property
    def explanation(self) -> str:
        """All the reasons, in one line."""
        return " ".join(f"{kind.value}: {reason}" for kind, reason in self.why_not.items())


_INSTALL: Final = {
    EngineKind.LLAMACPP: "not installed; run pip install 'modelshare[agent]'.",
    EngineKind.TRANSFORMERS: "not installed; run pip install 'modelshare[transformers]'.",
    EngineKind.VLLM: "not installed; install vllm, or set the path of its executable.",
    EngineKind.SGLANG: "not installed; install sglang, or set the path of its executable.",
    EngineKind.EXTERNAL: "no external server is configured.",
}

_NONE: Final[Mapping[EngineKind, str]] = {}


def choose(
    format_: Format,
    task: Task,
    machine: Machine,
    *,
    unconvertible: str | None,
    preference: EngineKind | None = None,
    unsuited: Mapping[EngineKind, str] = _NONE,
) -> Selection:
    """The preferred engine if it can, then the others that can, the fastest first.

    `unconvertible` says why safetensors cannot become GGUF; None when they can. `unsuited` says which engines cannot
    serve this model for reasons of its own, or have failed to.
    """
    why_not = {
        kind: reason
        for kind in EngineKind
        if (
            reason := _why_not(kind, format_, task, machine, unconvertible, preferred=kind is preference)
            or unsuited.get(kind)
        )
    }
    order = [EngineKind.VLLM, EngineKind.SGLANG] if machine.gpu else []
    order += [EngineKind.LLAMACPP, EngineKind.TRANSFORMERS]
    if preference:
        order = [preference, *(kind for kind in order if kind is not preference)]
    candidates = tuple(kind for kind in order if kind not in why_not)
    converts = candidates[:1] == (EngineKind.LLAMACPP,) and format_ is not Format.GGUF
    return Selection(candidates, converts, why_not)


def _why_not(
    kind: EngineKind, format_: Format, task: Task, machine: Machine, unconvertible: str | None, *, preferred: bool
) -> str | None:
    if task is Task.OTHER:
        return "the model supports neither chat, text completion nor embeddings."
    if kind not in machine.installed:
        return _INSTALL[kind]
    match kind:
        case EngineKind.LLAMACPP:
            return _not_by_llamacpp(format_, unconvertible)
        case EngineKind.TRANSFORMERS:
            return _not_by_transformers(format_, task)
        case EngineKind.VLLM | EngineKind.SGLANG:
            return _not_by_gpu_engine(format_, machine, preferred=preferred)
        case EngineKind.EXTERNAL:
            return None if preferred else "it is used only when chosen explicitly."


def _not_by_llamacpp(format_: Format, unconvertible: str | None) -> str | None:
    if format_ is Format.PICKLE:
        return "it reads GGUF, and pickles cannot be converted; push the model as safetensors or GGUF."
    return unconvertible if format_ is Format.SAFETENSORS else None


def _not_by_transformers(format_: Format, task: Task) -> str | None:
    if format_ is Format.GGUF:
        return "GGUF is served by llama.cpp."
    return "it has no embeddings route." if task is Task.EMBEDDING else None


def _not_by_gpu_engine(format_: Format, machine: Machine, *, preferred: bool) -> str | None:
    if format_ is Format.GGUF:
        return "GGUF is served by llama.cpp."
    return None if machine.gpu or preferred else "it needs a GPU, and none was found."
