"""Creates an engine for a deployment: selects its kind, converts the weights if needed, and applies its recipe."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelshare.agent.convert.cache import converted_file, to_gguf, unconvertible
from modelshare.agent.convert.numbers import read_numbers
from modelshare.agent.convert.source import TensorSource, embedder_in
from modelshare.agent.convert.values import ConversionError
from modelshare.agent.engines.base import (
    Engine,
    EngineError,
    EngineOptions,
    EngineSpec,
    ExternalServer,
    Format,
    OutOfMemoryError,
    Task,
)
from modelshare.agent.engines.heads import VectorHead
from modelshare.agent.engines.plugin import ClusterType, Machine, ModelFacts
from modelshare.agent.engines.select import Selection, choose, find_engines
from modelshare.agent.engines.texts import TextEncoder
from modelshare.agent.errors import StopError
from modelshare.agent.hardware import accelerator
from modelshare.agent.layout import lay_out
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.embedder import Embedder
from modelshare.wire.agents import Grant, Phase
from modelshare.wire.link import DesiredDeployment

_log = logging.getLogger(__name__)

_NO_FAILURES: Final[Mapping[str, str]] = {}
_GPUS: Final = ("nvidia", "amd")
"""The accelerators for which there are engines."""
_CONVERTED_TYPE: Final = "f16"
"""Half the size of float32, with answers that agree to five digits."""


class EngineSource:
    """The engines of this machine, selected by the operator or by what suits the model."""

    def __init__(
        self,
        state_dir: Path,
        preference: str | None,
        external: ExternalServer | None = None,
        *,
        ray: RaySettings = RaySettings(),  # noqa: B008 - immutable
        parallel: int | None = None,
        threads: int | None = None,
        gpu: bool | None = None,
    ) -> None:
        """`parallel`, `threads`: see EngineOptions. `gpu`: whether to use one; None: if there is one.

        Raises StopError if the operator's preferred engine is not available.
        """
        self._parallel = parallel
        self._threads = threads
        self._state_dir = state_dir
        self._gpu = accelerator() in _GPUS if gpu is None else gpu
        self._engines = find_engines(Machine(state_dir, self._gpu, external, ray))
        self._preference = preference or ("external" if external is not None else None)
        if self._preference is not None:
            self._require(self._preference)

    def kinds(self) -> list[str]:
        """The kinds of engines that can be started here."""
        return sorted(name for name, engine in self._engines.items() if engine.missing() is None)

    def _require(self, name: str) -> None:
        if name not in self._engines:
            raise StopError(f"There is no engine {name}. Choose one of {', '.join(self._engines)}.")
        if problem := self._engines[name].missing():
            raise StopError(f"The engine {name} cannot be used on this machine: {problem}")

    def on_cluster(self, wanted: DesiredDeployment, grants: Callable[[], Awaitable[Grant]]) -> Engine | None:
        """See `deployment.Engines`."""
        type_ = self._engines.get(self._preference or "")
        return type_.cluster_engine(wanted, grants, self._parallel) if isinstance(type_, ClusterType) else None

    async def release(self, deployment_id: str) -> None:
        """See `deployment.Engines`."""
        for engine in self._engines.values():
            await engine.release(deployment_id)

    async def prepare(
        self,
        wanted: DesiredDeployment,
        folder: Path,
        scratch: Path,
        on_phase: Callable[[Phase], None],
        failed: Mapping[str, str] = _NO_FAILURES,
    ) -> Engine:
        """See `deployment.Engines`."""
        inspected = await asyncio.to_thread(_inspect, _format(wanted), _task(wanted), folder)
        failures = dict(failed)
        while True:
            kind = self._best_engine(inspected, failures)
            try:
                return await self._create(kind, inspected, wanted, folder, scratch, on_phase)
            except OutOfMemoryError:
                raise
            except EngineError as error:
                _log.warning("%s: %s cannot be used: %s", wanted.served_name, kind, error)
                failures[kind] = str(error)

    def _best_engine(self, inspected: "_InspectedModel", failures: Mapping[str, str]) -> str:
        """The best remaining engine. If there is none, raises EngineError with the reasons of all."""
        left = self._choice(inspected, failures)
        if left.engine is not None:
            return left.engine
        able = self._choice(inspected, _NO_FAILURES)
        if len(able.candidates) == 1:
            raise EngineError(failures[able.candidates[0]])
        raise EngineError(f"No engine on this machine can serve the model. {left.explanation}")

    def _choice(self, inspected: "_InspectedModel", failed: Mapping[str, str]) -> Selection:
        return choose(self._engines, inspected.facts, gpu=self._gpu, preference=self._preference, failed=failed)

    async def _create(
        self,
        kind: str,
        inspected: "_InspectedModel",
        wanted: DesiredDeployment,
        folder: Path,
        scratch: Path,
        on_phase: Callable[[Phase], None],
    ) -> Engine:
        type_, facts = self._engines[kind], inspected.facts
        weights = tuple(folder / place for place in lay_out(wanted).weights)
        path = weights[0] if weights and facts.format is Format.GGUF else folder
        if type_.wants_gguf and facts.format is not Format.GGUF:
            if not converted_file(scratch, _CONVERTED_TYPE).exists():
                on_phase(Phase.CONVERTING)
            path = await to_gguf(folder, scratch, _CONVERTED_TYPE, self._state_dir)
            weights = (path,)
        spec = EngineSpec(
            path=path,
            weights=weights,
            served_name=wanted.served_name,
            format=facts.format,
            task=facts.task,
            context_length=wanted.context_length,
            texts=inspected.texts,
            normalizes=inspected.normalizes,
            finish=inspected.finish if type_.wants_gguf else None,
            options=EngineOptions(gpu=self._gpu, parallel=self._parallel, threads=self._threads),
        )
        engine = type_.engine(spec, scratch)
        engine.kind = kind
        return engine


@dataclass(frozen=True, slots=True)
class _InspectedModel:
    """What the model's files contain, as needed to choose and configure an engine."""

    facts: ModelFacts
    texts: TextEncoder | None = None
    finish: Callable[[Sequence[float]], tuple[float, ...]] | None = None
    """Computes the layers after the pooling, for engines that compute only normalization."""

    @property
    def normalizes(self) -> bool | None:
        if self.facts.embedder is None:
            return None
        return self.finish is None and bool(self.facts.embedder.layers)


def _inspect(format_: Format, task: Task, folder: Path) -> _InspectedModel:
    """Inspects the files. Raises EngineError if they declare something that no engine supports."""
    if format_ is Format.GGUF:
        return _InspectedModel(ModelFacts(format_, task))
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
    return _InspectedModel(
        ModelFacts(format_, task, obstacle, embedder, tokenizer.is_file()),
        _encoder(tokenizer, embedder) if embedder and tokenizer.is_file() else None,
        finish,
    )


def _finish(folder: Path, embedder: Embedder) -> Callable[[Sequence[float]], tuple[float, ...]] | None:
    """Raises ConversionError."""
    if embedder.only_normalizes:
        return None
    return VectorHead(folder, embedder, read_numbers(TensorSource.read(folder)).width).apply


def _encoder(tokenizer: Path, embedder: Embedder) -> TextEncoder:
    try:
        return TextEncoder(tokenizer, embedder)
    except Exception as error:
        _log.exception("The tokenizer cannot be read.")
        raise EngineError("The model's tokenizer.json cannot be read; save the model again and push it.") from error


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
