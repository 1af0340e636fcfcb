"""What an engine is to the rest of the agent."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Protocol

from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.errors import DeploymentError


class EngineKind(StrEnum):
    LLAMACPP = "llamacpp"
    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    SGLANG = "sglang"
    EXTERNAL = "external"


class Format(StrEnum):
    """How weights are stored, as the manifest says it."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    PICKLE = "pickle"


class Task(StrEnum):
    """What a model can be asked for, as the manifest says it."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    OTHER = "other"


class Route(StrEnum):
    """The only routes that are relayed to an engine, below `/v1/`."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"

    @property
    def path(self) -> str:
        return f"/v1/{self.value}"


ROUTES_OF_TASK = {
    Task.CHAT: frozenset({Route.CHAT, Route.COMPLETIONS}),
    Task.COMPLETION: frozenset({Route.COMPLETIONS}),
    Task.EMBEDDING: frozenset({Route.EMBEDDINGS}),
    Task.OTHER: frozenset[Route](),
}
MAIN_ROUTE = {Task.CHAT: Route.CHAT, Task.COMPLETION: Route.COMPLETIONS, Task.EMBEDDING: Route.EMBEDDINGS}
"""The route that an engine must answer once before it counts as ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The operator's choices for one engine; the defaults suit a small machine."""

    parallel: int = 4
    """Requests worked on at once, where the engine divides its memory among them (llama.cpp)."""
    context: int | None = None
    """Tokens per request; None takes the model's own length, up to what the engine's recipe finds sensible."""
    threads: int | None = None
    """CPU threads; None takes the cores this process may use."""
    gpu: bool = False
    executable: str | None = None
    """The engine's program, where it is not on PATH."""
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What to serve. `path` is a folder of verified files, or one GGUF file."""

    path: Path
    served_name: str
    """The public `model` name in requests and answers."""
    format: Format
    task: Task
    architecture: str | None = None
    context_length: int | None = None
    """Tokens, as the manifest says."""
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests inside the engine, by its own account."""

    running: int
    waiting: int


class EngineError(DeploymentError):
    """The engine cannot serve."""


class Activity:
    """The requests that the agent has in an engine; whoever relays them keeps it current, for liveness goes by it."""

    def __init__(self) -> None:
        self.running = 0
        self.last_success = float("-inf")
        """`time.monotonic()` of the last sign of life."""
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold this while a request is in the engine."""
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    def succeeded(self) -> None:
        """The engine answered with a success, or sent one more piece of a stream."""
        self.last_success = monotonic()

    async def drained(self, within: float) -> bool:
        """Wait up to `within` seconds until no request is left."""
        try:
            async with asyncio.timeout(within):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


class Engine(Protocol):
    """One life of an engine: `start`, relay requests by the rules of `relay_for`, `stop`. A restart is a new object."""

    kind: EngineKind
    routes: frozenset[Route]
    activity: Activity
    mapped_bytes: int
    """Of weights that it maps into the main memory; 0 where they are allocated, or lie elsewhere."""

    @property
    def base_url(self) -> str:
        """As the OpenAI client wants it, `http://127.0.0.1:PORT/v1`; known once started."""

    @property
    def headers(self) -> dict[str, str]:
        """What every request must carry: the secret of this start."""

    @property
    def log_tail(self) -> Sequence[str]:
        """The last lines the engine wrote. For the operator's eyes: they may hold paths of this machine."""

    def relay_for(self, public_name: str) -> RelayPolicy:
        """How requests and answers are changed between clients, who know the model as `public_name`, and the engine."""

    async def start(self) -> None:
        """Returns when the engine has given one real answer. Raises EngineError, with nothing left running."""

    async def died(self) -> str:
        """Returns, when the engine has ended or no longer answers, why."""

    async def health(self) -> bool:
        """Ask the engine's health route now."""

    async def load(self) -> Load | None:
        """None where the engine does not tell."""

    async def stop(self, grace: float = 0.0) -> None:
        """Let requests end for up to `grace` seconds, then end the engine and make sure that all of it is gone."""
