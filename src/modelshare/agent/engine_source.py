"""From a wanted deployment to an engine for it: which kind, after which conversion, by which recipe."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from modelshare.agent.convert.cache import converted_file, to_gguf, unconvertible
from modelshare.agent.engines import llamacpp, sglang, transformers, vllm
from modelshare.agent.engines.base import Engine, EngineError, EngineKind, EngineOptions, EngineSpec, Format, Task
from modelshare.agent.engines.external import ExternalEngine, ExternalServer
from modelshare.agent.engines.machine import detect, find_program
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.select import choose
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.errors import Stop
from modelshare.agent.layout import lay_out
from modelshare.wire.agents import Phase
from modelshare.wire.link import Wanted

_CONVERTED_TYPE: Final = "f16"
"""Half the size of float32, and its answers agree to five digits."""


class EngineSource:
    """The engines of this machine, by the operator's choice or by what suits the model."""

    def __init__(
        self,
        state_dir: Path,
        preference: str | None,
        external: ExternalServer | None,
        *,
        parallel: int | None = None,
    ) -> None:
        """`parallel`: see EngineOptions. Raises Stop when the operator asks for an engine that cannot be had here."""
        self._parallel = parallel
        self._state_dir = state_dir
        self._external = external
        self._machine = detect({}, external=external is not None)
        self._preference = _preferred(preference, external)
        if self._preference is not None and self._preference not in self._machine.installed:
            raise Stop(f"The engine {self._preference} is not installed on this machine; install it, or name another.")

    def kinds(self) -> list[str]:
        """What can be started here."""
        return sorted(self._machine.installed)

    async def prepare(self, wanted: Wanted, folder: Path, scratch: Path, on_phase: Callable[[Phase], None]) -> Engine:
        """See `deployment.Engines`."""
        format_, task = _format(wanted), _task(wanted)
        obstacle = await asyncio.to_thread(unconvertible, folder) if format_ is Format.SAFETENSORS else None
        choice = choose(format_, task, self._machine, unconvertible=obstacle, preference=self._preference)
        if choice.engine is None:
            raise EngineError(f"No engine of this machine can serve the model. {choice.explanation}")
        weights = tuple(folder / place for place in lay_out(wanted).weights)
        path = weights[0] if weights and format_ is Format.GGUF else folder
        if choice.converts:
            if not converted_file(scratch, _CONVERTED_TYPE).exists():
                on_phase(Phase.CONVERTING)
            path = await to_gguf(folder, scratch, _CONVERTED_TYPE, self._state_dir)
            weights = (path,)
        spec = EngineSpec(
            path=path,
            weights=weights,
            served_name=wanted.served_name,
            format=format_,
            task=task,
            architecture=wanted.architecture,
            context_length=wanted.context_length,
            options=EngineOptions(gpu=self._machine.gpu, parallel=self._parallel),
        )
        return self._engine(choice.engine, spec, scratch)

    def _engine(self, kind: EngineKind, spec: EngineSpec, scratch: Path) -> Engine:
        if kind is EngineKind.EXTERNAL and self._external is not None:
            return ExternalEngine(self._external, spec)
        return ProcessEngine(_recipe(kind, spec, scratch), self._state_dir)


def _recipe(kind: EngineKind, spec: EngineSpec, scratch: Path) -> Recipe:
    if kind is EngineKind.LLAMACPP:
        return llamacpp.recipe(spec)
    program = find_program(kind, spec.options)
    if program is None:
        raise EngineError(f"The program of the engine {kind} is no longer there.")
    if kind is EngineKind.VLLM:
        return vllm.recipe(spec, program)
    if kind is EngineKind.SGLANG:
        return sglang.recipe(spec, program)
    return transformers.recipe(spec, program, scratch)


def _preferred(name: str | None, external: ExternalServer | None) -> EngineKind | None:
    if name is None:
        return EngineKind.EXTERNAL if external is not None else None
    try:
        return EngineKind(name)
    except ValueError as error:
        raise Stop(f"There is no engine {name}; choose one of {', '.join(EngineKind)}.") from error


def _format(wanted: Wanted) -> Format:
    try:
        return Format(wanted.format)
    except ValueError as error:
        raise EngineError(f"This agent does not know the format {wanted.format}; update it.") from error


def _task(wanted: Wanted) -> Task:
    try:
        return Task(wanted.task)
    except ValueError as error:
        raise EngineError(f"This agent does not know the task {wanted.task}; update it.") from error
