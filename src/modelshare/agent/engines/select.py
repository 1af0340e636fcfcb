"""Finds the engines of this machine and selects one for a model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Final, NoReturn

from modelshare import plugins
from modelshare.agent.engines.base import EngineSpec, Task
from modelshare.agent.engines.plugin import EngineType, Machine, ModelFacts
from modelshare.plugins import PluginError

GROUP: Final = "modelshare.engines"
_log = logging.getLogger(__name__)
_NONE: Final[Mapping[str, str]] = {}


def find_engines(machine: Machine) -> dict[str, EngineType]:
    """All registered engines by name, ordered by rank. One that cannot be loaded reports why in `missing`."""
    found = {name: _made(entry, machine) for name, entry in plugins.find(GROUP).items()}
    return dict(sorted(found.items(), key=lambda item: item[1].rank))


@dataclass(frozen=True, slots=True)
class Selection:
    candidates: tuple[str, ...]
    """The engines that can serve the model, best first."""
    why_not: Mapping[str, str]
    """A reason for each engine that cannot."""

    @property
    def engine(self) -> str | None:
        """The best engine; None if no engine of this machine can serve the model."""
        return next(iter(self.candidates), None)

    @property
    def explanation(self) -> str:
        """All reasons on one line."""
        return " ".join(f"{name}: {reason}" for name, reason in self.why_not.items())


def choose(
    engines: Mapping[str, EngineType],
    model: ModelFacts,
    *,
    gpu: bool = False,
    preference: str | None = None,
    failed: Mapping[str, str] = _NONE,
) -> Selection:
    """Selects the preferred engine if it can serve the model, then the others; with a GPU, those for GPUs first.

    `failed`: engines that have failed to serve this model, with the reasons.
    """
    why_not = {
        name: reason
        for name, engine in engines.items()
        if (reason := _why_not(engine, model, gpu=gpu, preferred=name == preference) or failed.get(name))
    }
    able = [name for name in engines if name not in why_not]
    able.sort(key=lambda name: (name != preference, not engines[name].needs_gpu))
    return Selection(tuple(able), why_not)


def _why_not(engine: EngineType, model: ModelFacts, *, gpu: bool, preferred: bool) -> str | None:
    if model.task is Task.OTHER:
        return "the model supports neither chat, text completion nor embeddings."
    if reason := engine.missing() or engine.unsuited(model):
        return reason
    if engine.needs_gpu and not (gpu or preferred):
        return "it needs a GPU, and none was found."
    return "it is used only when chosen explicitly." if engine.only_on_request and not preferred else None


class _UnusablePlugin(EngineType):
    """Replaces a plug-in that cannot be loaded, so that it does not affect others."""

    def __init__(self, machine: Machine, problem: str) -> None:
        super().__init__(machine)
        self._problem = problem

    def missing(self) -> str:
        return self._problem

    def unsuited(self, model: ModelFacts) -> str:
        raise NotImplementedError(model)

    def engine(self, spec: EngineSpec, scratch: Path) -> NoReturn:
        raise NotImplementedError(spec, scratch)


def _made(entry: EntryPoint, machine: Machine) -> EngineType:
    try:
        engine = plugins.load(entry)(machine)
    except PluginError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - a broken plug-in must not affect the others
        problem = plugins.unusable(entry, f"{type(error).__name__}: {error}")
    else:
        if isinstance(engine, EngineType):
            return engine
        problem = plugins.unusable(entry, "it names no EngineType")
    _log.warning("%s", problem)
    return _UnusablePlugin(machine, problem)
