"""What an engine is to the rest of the agent."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing
from modelshare.agent.engines.texts import TextEncoder
from modelshare.agent.engines.turns import TenantQueue
from modelshare.agent.errors import DeploymentError

_SLOW_PROMPT_BYTES: Final = 50
_SLOW_TOKENS: Final = 8
"""A second, of engines that are still of use: a large model on CPUs, with other requests beside."""


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

    parallel: int | None = None
    """Sequences worked on at once; more wait, and tenants take turns. None takes what suits the engine."""
    context: int | None = None
    """Tokens per request; None takes the model's own length, up to what the engine's recipe finds sensible."""
    threads: int | None = None
    """CPU threads; None takes the cores this process may use."""
    gpu: bool = False
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What to serve. `path` is a folder that holds no other weights than these, or a GGUF file: of a split one the
    first part, from which llama.cpp finds the others.
    """

    path: Path
    weights: tuple[Path, ...] = ()
    """All that is opened; empty stands for `path`."""
    served_name: str
    """The public `model` name in requests and answers."""
    format: Format
    task: Task
    architecture: str | None = None
    context_length: int | None = None
    """Tokens, as the manifest says."""
    texts: TextEncoder | None = None
    """Makes the tokens of texts to embed, where the model declares how."""
    normalizes: bool | None = None
    """Whether its vectors have the length 1; None where the model does not say."""
    finish: Callable[[Sequence[float]], tuple[float, ...]] | None = None
    """What is still to be computed of each vector, of an engine that leaves it out."""
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class ExternalServer:
    """A server that the operator runs beside the agent."""

    base_url: str
    """With or without `/v1` at its end."""
    api_key: str | None = None
    model: str | None = None
    """What it calls the model; None: the public name."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests inside the engine, by its own account."""

    running: int
    waiting: int


class EngineError(DeploymentError):
    """The engine cannot serve."""


class OutOfMemoryError(EngineError):
    """The machine's memory did not hold the model; no other engine needs less."""


class Activity:
    """The requests that the agent has in an engine; whoever relays them keeps it current, for liveness goes by it."""

    def __init__(self, *, shows_work: bool = False) -> None:
        """`shows_work`: the engine counts its steps, so that it need not be guessed how long they take."""
        self._shows_work = shows_work
        self.running = 0
        self.last_success = float("-inf")
        """`time.monotonic()` of the last sign of life."""
        self.patience = 0.0
        """Seconds that what the engine was asked for since then may take before anything can be seen of it."""
        self._asked = 0
        self._asked_since = 0.0
        self._asked_before = 0.0
        self._patience_now = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold this while a request is in the engine, or waits for its turn."""
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    @contextmanager
    def asking(self, prompt_bytes: int, unseen_tokens: int = 0) -> Iterator[None]:
        """Hold this while the engine itself is asked for something, of which `unseen_tokens` are not streamed."""
        patience = prompt_bytes / _SLOW_PROMPT_BYTES + (0 if self._shows_work else unseen_tokens / _SLOW_TOKENS)
        if not self._asked:
            self._asked_since = monotonic()
        self._asked += 1
        self._patience_now += patience
        self.patience = max(self.patience, self._patience_now)
        try:
            yield
        finally:
            self._asked -= 1
            self._patience_now -= patience
            if not self._asked:
                self._asked_before += monotonic() - self._asked_since

    @property
    def silence(self) -> float:
        """Seconds that the engine was asked for something since its last sign of life, whoever still waits for it."""
        return self._asked_before + (monotonic() - self._asked_since if self._asked else 0.0)

    def succeeded(self) -> None:
        """The engine answered with a success, or sent one more piece of a stream."""
        self.last_success = self._asked_since = monotonic()
        self._asked_before = 0.0
        self.patience = self._patience_now

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

    kind: str
    """The name that it is registered by."""
    routes: frozenset[Route]
    activity: Activity
    sharing: Sharing
    turns: TenantQueue
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
