"""From a wanted deployment to an engine for it: which kind, after which conversion, by which recipe."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from modelshare.agent.convert.cache import converted_file, to_gguf, unconvertible
from modelshare.agent.convert.numbers import read_numbers
from modelshare.agent.convert.source import TensorSource, embedder_in
from modelshare.agent.convert.values import ConversionError
from modelshare.agent.engines import llamacpp, sglang, transformers, vllm
from modelshare.agent.engines.base import (
    Engine,
    EngineError,
    EngineKind,
    EngineOptions,
    EngineSpec,
    Format,
    OutOfMemoryError,
    Task,
)
from modelshare.agent.engines.embedders import unsuited
from modelshare.agent.engines.external import ExternalEngine, ExternalServer
from modelshare.agent.engines.heads import VectorHead
from modelshare.agent.engines.machine import detect, find_program
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.select import Selection, choose
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.engines.texts import TextEncoder
from modelshare.agent.errors import StopError
from modelshare.agent.layout import lay_out
from modelshare.embedder import Embedder
from modelshare.wire.agents import Phase
from modelshare.wire.link import DesiredDeployment

_log = logging.getLogger(__name__)

_NONE: Final[Mapping[EngineKind, str]] = {}
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
            raise StopError(
                f"The engine {self._preference} is not installed on this machine. Install it, or choose another."
            )

    def kinds(self) -> list[str]:
        """What can be started here."""
        return sorted(self._machine.installed)

    async def prepare(
        self,
        wanted: DesiredDeployment,
        folder: Path,
        scratch: Path,
        on_phase: Callable[[Phase], None],
        failed: Mapping[EngineKind, str] = _NONE,
    ) -> Engine:
        """See `deployment.Engines`."""
        judged = await asyncio.to_thread(_judged, _format(wanted), _task(wanted), folder)
        failures = dict(failed)
        while True:
            kind = self._best(judged, failures)
            try:
                return await self._prepared(kind, judged, wanted, folder, scratch, on_phase)
            except OutOfMemoryError:
                raise
            except EngineError as error:
                _log.warning("%s: %s cannot be used: %s", wanted.served_name, kind, error)
                failures[kind] = str(error)

    def _best(self, judged: "_Judged", failures: Mapping[EngineKind, str]) -> EngineKind:
        """Raises EngineError, with the reasons of all, where none is left."""
        able = self._choice(judged, judged.unsuited)
        left = self._choice(judged, {**judged.unsuited, **failures})
        if left.engine is not None:
            return left.engine
        if len(able.candidates) == 1:
            raise EngineError(failures[able.candidates[0]])
        raise EngineError(f"No engine on this machine can serve the model. {left.explanation}")

    def _choice(self, judged: "_Judged", unsuited: Mapping[EngineKind, str]) -> Selection:
        return choose(
            judged.format,
            judged.task,
            self._machine,
            unconvertible=judged.unconvertible,
            preference=self._preference,
            unsuited=unsuited,
        )

    async def _prepared(
        self,
        kind: EngineKind,
        judged: "_Judged",
        wanted: DesiredDeployment,
        folder: Path,
        scratch: Path,
        on_phase: Callable[[Phase], None],
    ) -> Engine:
        weights = tuple(folder / place for place in lay_out(wanted).weights)
        path = weights[0] if weights and judged.format is Format.GGUF else folder
        if kind is EngineKind.LLAMACPP and judged.format is not Format.GGUF:
            if not converted_file(scratch, _CONVERTED_TYPE).exists():
                on_phase(Phase.CONVERTING)
            path = await to_gguf(folder, scratch, _CONVERTED_TYPE, self._state_dir)
            weights = (path,)
        spec = EngineSpec(
            path=path,
            weights=weights,
            served_name=wanted.served_name,
            format=judged.format,
            task=judged.task,
            architecture=wanted.architecture,
            context_length=wanted.context_length,
            texts=judged.texts,
            normalizes=judged.normalizes,
            finish=judged.finish if kind is EngineKind.LLAMACPP else None,
            options=EngineOptions(gpu=self._machine.gpu, parallel=self._parallel),
        )
        return self._engine(kind, spec, scratch)

    def _engine(self, kind: EngineKind, spec: EngineSpec, scratch: Path) -> Engine:
        if kind is EngineKind.EXTERNAL and self._external is not None:
            return ExternalEngine(self._external, spec)
        return ProcessEngine(_recipe(kind, spec, scratch), self._state_dir)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What engines are chosen by, and told."""

    format: Format
    task: Task
    unconvertible: str | None = None
    unsuited: Mapping[EngineKind, str] = field(default_factory=dict)
    embedder: Embedder | None = None
    texts: TextEncoder | None = None
    finish: Callable[[Sequence[float]], tuple[float, ...]] | None = None
    """For engines that compute nothing after the pooling but normalization."""

    @property
    def normalizes(self) -> bool | None:
        if self.embedder is None:
            return None
        return self.finish is None and bool(self.embedder.layers)


def _judged(format_: Format, task: Task, folder: Path) -> _Judged:
    """Looks into the files. Raises EngineError for declarations that no engine could follow."""
    if format_ is Format.GGUF:
        return _Judged(format_, task)
    try:
        embedder = embedder_in(folder) if task is Task.EMBEDDING else None
    except ConversionError as error:
        raise EngineError(str(error)) from error
    tokenizer = folder / (embedder.transformer if embedder else "") / "tokenizer.json"
    obstacle, finish = None, None
    if format_ is Format.SAFETENSORS and (obstacle := unconvertible(folder, task)) is None:
        try:
            finish = _finish(folder, embedder) if embedder else None
        except ConversionError as error:
            obstacle = str(error)
    return _Judged(
        format_,
        task,
        obstacle,
        unsuited(embedder, has_tokenizer=tokenizer.is_file()),
        embedder,
        _encoder(tokenizer, embedder) if embedder and tokenizer.is_file() else None,
        finish,
    )


def _finish(folder: Path, embedder: Embedder) -> Callable[[Sequence[float]], tuple[float, ...]] | None:
    """Raises ConversionError."""
    if embedder.only_normalizes:
        return None
    return VectorHead(folder, embedder, read_numbers(TensorSource.read(folder)).width).applied


def _encoder(tokenizer: Path, embedder: Embedder) -> TextEncoder:
    try:
        return TextEncoder(tokenizer, embedder)
    except Exception as error:
        _log.exception("The tokenizer cannot be read.")
        raise EngineError("The model's tokenizer.json cannot be read; save the model again and push it.") from error


def _recipe(kind: EngineKind, spec: EngineSpec, scratch: Path) -> Recipe:
    if kind is EngineKind.LLAMACPP:
        return llamacpp.recipe(spec)
    program = find_program(kind, spec.options)
    if program is None:
        raise EngineError(f"The program of the engine {kind} no longer exists.")
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
        raise StopError(f"There is no engine {name}. Choose one of {', '.join(EngineKind)}.") from error


def _format(wanted: DesiredDeployment) -> Format:
    try:
        return Format(wanted.format)
    except ValueError as error:
        raise EngineError(f"This agent does not support the format {wanted.format}. Update it.") from error


def _task(wanted: DesiredDeployment) -> Task:
    try:
        return Task(wanted.task)
    except ValueError as error:
        raise EngineError(f"This agent does not support the task {wanted.task}. Update it.") from error
