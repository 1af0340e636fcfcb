"""The interface of engine plug-ins.

docs/plugins.md shows how to add one; the built-in engines use the same interface.
"""

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NoReturn

from modelshare.agent.engines.base import Engine, EngineError, EngineSpec, ExternalServer, Format, Task
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.embedder import Embedder
from modelshare.wire.agents import Grant
from modelshare.wire.link import DesiredDeployment


@dataclass(frozen=True, slots=True)
class Machine:
    """The environment in which engines run."""

    state_dir: Path
    """The agent's own folder."""
    gpu: bool = False
    external: ExternalServer | None = None
    """The server configured by the operator, if any."""
    ray: RaySettings = field(default_factory=RaySettings)
    """The operator's settings for a Ray cluster."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts about a model by which an engine is chosen."""

    format: Format
    task: Task
    unconvertible: str | None = None
    """Why its safetensors cannot be converted to GGUF; None if they can."""
    embedder: Embedder | None = None
    """What an embedding model's files declare."""
    has_tokenizer: bool = True
    """Whether the agent can tokenize texts itself."""

    @property
    def tokenizer_obstacle(self) -> str | None:
        """Why an engine that receives text instead of tokens would compute wrong vectors; None if it would not."""
        if self.has_tokenizer or self.embedder is None or not (self.embedder.prompt or self.embedder.lowercases):
            return None
        return "it has no tokenizer.json, which the agent needs to prepare texts for this engine."


class EngineType(ABC):
    """A kind of engine. One instance is created when the agent starts, for each entry point."""

    rank: ClassVar[int] = 100
    """Of the engines that can serve a model, the one with the lowest rank is tried first."""
    needs_gpu: ClassVar[bool] = False
    """It is for GPUs: tried before others if there is one, and otherwise used only on request."""
    wants_gguf: ClassVar[bool] = False
    """Safetensors are converted to GGUF for it."""
    only_on_request: ClassVar[bool] = False
    """It is used only if the operator names it (`--engine`)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @abstractmethod
    def missing(self) -> str | None:
        """What is missing on this machine and how to install it; None if the engine can be started."""

    @abstractmethod
    def unsuited(self, model: ModelFacts) -> str | None:
        """Why it cannot serve the model; None if it can."""

    @abstractmethod
    def engine(self, spec: EngineSpec, scratch: Path) -> Engine:
        """Creates an engine for the model, not yet started. `scratch` is a folder for its files, kept with the model's.

        Raises EngineError.
        """

    async def release(self, deployment_id: str) -> None:
        """Deletes what it has of a deployment outside the agent's folder. Raises EngineError if that is not certain."""
        del deployment_id


class ClusterType(EngineType):
    """An engine on other machines, which pull the weights themselves: the agent's machine has none."""

    only_on_request = True

    def unsuited(self, model: ModelFacts) -> None:
        """Decided by the engines there."""
        del model

    def engine(self, spec: EngineSpec, scratch: Path) -> NoReturn:
        """Not used."""
        raise NotImplementedError(spec, scratch)

    @abstractmethod
    def cluster_engine(
        self, wanted: DesiredDeployment, grants: Callable[[], Awaitable[Grant]], parallel: int | None
    ) -> Engine:
        """Creates an engine for the deployment, not yet started. `parallel`: see EngineOptions. Raises EngineError."""


class ProgramType(EngineType):
    """An engine that is a program, started with the arguments of its recipe."""

    program: ClassVar[str]
    install: ClassVar[str]
    """How to install it."""

    def missing(self) -> str | None:
        return None if self.find() else f"it is not installed; {self.install}."

    def engine(self, spec: EngineSpec, scratch: Path) -> Engine:
        program = self.find()
        if program is None:
            raise EngineError(f"The program {self.program} no longer exists; {self.install}.")
        return ProcessEngine(self.recipe(spec, program, scratch), self.machine.state_dir)

    @abstractmethod
    def recipe(self, spec: EngineSpec, program: str, scratch: Path) -> Recipe:
        """How to run it. Raises EngineError."""

    @classmethod
    def find(cls) -> str | None:
        """The program's path: beside this Python, or on PATH."""
        return shutil.which(cls.program, path=str(Path(sys.executable).parent)) or shutil.which(cls.program)


class SafetensorsProgram(ProgramType):
    """A program that reads only safetensors, and pools embeddings in its own way."""

    def unsuited(self, model: ModelFacts) -> str | None:
        if model.format is Format.GGUF:
            return "GGUF is served by llama.cpp."
        if model.embedder is None:
            return None
        return model.tokenizer_obstacle or self.pooling_obstacle(model.embedder)

    @abstractmethod
    def pooling_obstacle(self, embedder: Embedder) -> str | None:
        """Why its vectors would differ from those that the model's files declare; None if they would not."""
