"""What a kind of engine has to say of itself. docs/plugins.md shows how to add one; the engines beside this file are
added in the same way.
"""

import importlib.util
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from modelshare.agent.engines.base import Engine, EngineError, EngineSpec, ExternalServer, Format, Task
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.embedder import Embedder


@dataclass(frozen=True, slots=True)
class Machine:
    """Where engines run."""

    state_dir: Path
    """The agent's own folder."""
    gpu: bool = False
    external: ExternalServer | None = None
    """The server that the operator named, if any."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What an engine is chosen by."""

    format: Format
    task: Task
    unconvertible: str | None = None
    """Why safetensors cannot become GGUF; None when they can."""
    embedder: Embedder | None = None
    """What an embedding model's files declare."""
    has_tokenizer: bool = True
    """The agent can make the tokens of texts itself."""

    @property
    def tokenizer_obstacle(self) -> str | None:
        """Why an engine that is not given tokens would embed other texts than the model declares."""
        if self.has_tokenizer or self.embedder is None or not (self.embedder.prompt or self.embedder.lowercases):
            return None
        return "it has no tokenizer.json, which the agent needs to prepare texts for this engine."


class EngineType(ABC):
    """A kind of engine. One is made when the agent starts, by the entry point's name."""

    rank: ClassVar[int] = 100
    """Of the engines that can serve a model, the one with the lowest rank is tried first."""
    needs_gpu: ClassVar[bool] = False
    """It is for GPUs: tried before others where there is one, and only on request elsewhere."""
    wants_gguf: ClassVar[bool] = False
    """Safetensors are converted to GGUF for it."""
    only_on_request: ClassVar[bool] = False
    """It is used only where the operator names it (`--engine`)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @abstractmethod
    def missing(self) -> str | None:
        """What this machine lacks for it, and how to get that; None when it can be started."""

    @abstractmethod
    def unsuited(self, model: ModelFacts) -> str | None:
        """Why it cannot serve the model; None when it can."""

    @abstractmethod
    def engine(self, spec: EngineSpec, scratch: Path) -> Engine:
        """An engine for the model, not started. `scratch` is a folder for its files, kept with the model's.

        Raises EngineError.
        """


class ProgramType(EngineType):
    """An engine that is a program, started with the arguments of its recipe."""

    program: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """Python packages that the program needs beyond what it comes with."""
    install: ClassVar[str]
    """How to install it."""

    def missing(self) -> str | None:
        if self.find() and all(importlib.util.find_spec(package) for package in self.packages):
            return None
        return f"it is not installed; {self.install}."

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
        """Where the program is: beside this Python, or on PATH."""
        return shutil.which(cls.program, path=str(Path(sys.executable).parent)) or shutil.which(cls.program)


class SafetensorsProgram(ProgramType):
    """A program that reads safetensors alone, and pools embeddings in its own way."""

    def unsuited(self, model: ModelFacts) -> str | None:
        if model.format is Format.GGUF:
            return "GGUF is served by llama.cpp."
        if model.embedder is None:
            return None
        return model.tokenizer_obstacle or self.pooling_obstacle(model.embedder)

    @abstractmethod
    def pooling_obstacle(self, embedder: Embedder) -> str | None:
        """Why its vectors would be others than the model's files declare; None when they are the same."""
