"""The engines of this machine: from a deployment's verified files to an engine that answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from modelshare.agent.convert.cache import to_gguf, unconvertible
from modelshare.agent.engines import llamacpp, sglang, transformers, vllm
from modelshare.agent.engines.base import Engine, EngineError, EngineKind, EngineOptions, EngineSpec, Format, Task
from modelshare.agent.engines.external import ExternalEngine, ExternalServer
from modelshare.agent.engines.machine import detect, find_program
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.select import Machine, choose
from modelshare.agent.engines.supervisor import ProcessEngine, Timing
from modelshare.wire.agents import Phase
from modelshare.wire.link import Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The operator's choices."""

    preference: EngineKind | None = None
    options: Mapping[EngineKind, EngineOptions] = field(default_factory=dict)
    external: ExternalServer | None = None
    weight_type: str = "f16"
    """Of converted weights: f32, f16 or q8_0."""
    timing: Timing = field(default_factory=Timing)


class LocalEngines:
    """Makes and starts engines. `state_dir` remembers their processes for `reap_leftovers`, to be called before."""

    def __init__(self, settings: EngineSettings, state_dir: Path) -> None:
        self._settings = settings
        self._state_dir = state_dir
        self.machine: Final[Machine] = detect(settings.options, external=settings.external is not None)

    async def start(self, wanted: Wanted, weights: Path, scratch: Path, on_phase: Callable[[Phase], None]) -> Engine:
        """The running engine for `wanted`, whose verified files are in `weights`. Raises EngineError.

        `scratch` belongs to the same manifest and outlives the engine: converted weights stay there.
        """
        spec = _spec(wanted, weights)
        reason = unconvertible(weights) if spec.format is Format.SAFETENSORS else None
        selection = choose(
            spec.format, spec.task, self.machine, unconvertible=reason, preference=self._settings.preference
        )
        if selection.engine is None:
            raise EngineError(f"No engine of this machine can serve the model. {selection.explanation}")
        if selection.converts:
            on_phase(Phase.CONVERTING)
            path = await to_gguf(weights, scratch, self._settings.weight_type, self._state_dir)
            spec = replace(spec, path=path, format=Format.GGUF)
            on_phase(Phase.LOADING)
        engine = self._make(selection.engine, spec, wanted.max_concurrent)
        await engine.start()
        return engine

    def _make(self, kind: EngineKind, spec: EngineSpec, max_concurrent: int) -> Engine:
        options = self._settings.options.get(kind, EngineOptions())
        options = replace(options, parallel=max(1, min(options.parallel, max_concurrent)))
        spec = replace(spec, options=options)
        if kind is EngineKind.EXTERNAL and self._settings.external:
            return ExternalEngine(self._settings.external, spec, timing=self._settings.timing)
        return ProcessEngine(self._recipe(kind, spec), self._state_dir, timing=self._settings.timing)

    def _recipe(self, kind: EngineKind, spec: EngineSpec) -> Recipe:
        if kind is EngineKind.LLAMACPP:
            return llamacpp.recipe(spec)
        program = find_program(kind, spec.options)
        if program is None:
            raise EngineError(f"The program of {kind.value} is gone; install it again.")
        if kind is EngineKind.VLLM:
            return vllm.recipe(spec, program)
        if kind is EngineKind.SGLANG:
            return sglang.recipe(spec, program)
        return transformers.recipe(spec, program, self._state_dir / "huggingface")


def _spec(wanted: Wanted, weights: Path) -> EngineSpec:
    try:
        return EngineSpec(
            path=weights,
            served_name=wanted.served_name,
            format=Format(wanted.format),
            task=Task(wanted.task),
            architecture=wanted.architecture,
            context_length=wanted.context_length,
        )
    except ValueError as error:
        raise EngineError(f"This agent is too old for the model ({error}); update modelshare.") from error
