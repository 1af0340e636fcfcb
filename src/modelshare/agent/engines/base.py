"""The interface between engines and the rest of the agent."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing, TenantQueue
from modelshare.agent.engines.texts import TextEncoder
from modelshare.agent.errors import DeploymentError

_SLOW_PROMPT_BYTES: Final = 50
_SLOW_TOKENS: Final = 8
"""Lower bounds per second for engines that are still useful: a large model on CPUs, with concurrent requests."""


class Format(StrEnum):
    """How weights are stored, according to the manifest."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    PICKLE = "pickle"


class Task(StrEnum):
    """What a model can be used for, according to the manifest."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    OTHER = "other"


class Route(StrEnum):
    """The routes that are relayed to engines, below `/v1/`."""

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
    """The operator's settings for one engine; the defaults suit a small machine."""

    parallel: int | None = None
    """Sequences processed at once; others wait, and tenants take turns. None uses the engine's default."""
    context: int | None = None
    """Tokens per request; None uses the model's own context length, up to a limit set by the engine's recipe."""
    threads: int | None = None
    """CPU threads; None uses the cores available to this process."""
    gpu: bool = False
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What to serve.

    `path` is a folder without other weights, or a GGUF file: of a split one the first part, from which llama.cpp finds
    the others.
    """

    path: Path
    weights: tuple[Path, ...] = ()
    """All files that are opened; empty means `path`."""
    served_name: str
    """The public model name in requests and answers."""
    format: Format
    task: Task
    context_length: int | None = None
    """Tokens, according to the manifest."""
    texts: TextEncoder | None = None
    """Tokenizes texts to embed, if the model declares how."""
    normalizes: bool | None = None
    """Whether vectors have length 1; None if the model does not say."""
    finish: Callable[[Sequence[float]], tuple[float, ...]] | None = None
    """Layers to compute for each vector, if the engine does not."""
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class ExternalServer:
    """A server that the operator runs beside the agent."""

    base_url: str
    """With or without a trailing `/v1`."""
    api_key: str | None = None
    model: str | None = None
    """Its name for the model; None means the public name."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests inside the engine, as reported by the engine."""

    running: int
    waiting: int


class EngineError(DeploymentError):
    """The engine cannot serve."""


class OutOfMemoryError(EngineError):
    """The model did not fit into the machine's memory; no other engine needs less."""


class Activity:
    """Tracks the agent's requests to an engine. Used to decide whether the engine is alive."""

    def __init__(self, *, shows_work: bool = False) -> None:
        """`shows_work`: the engine counts its steps, so that their duration need not be estimated."""
        self._shows_work = shows_work
        self.running = 0
        self.last_success = float("-inf")
        """`time.monotonic()` of the last sign of life."""
        self.patience = 0.0
        """Seconds that requests since then may take before any result is visible."""
        self._asked = 0
        self._asked_since = 0.0
        self._asked_before = 0.0
        self._patience_now = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """A period in which a request is in the engine or waits for its turn."""
        self.begin_request()
        try:
            yield
        finally:
            self.end_request()

    def begin_request(self) -> None:
        """A request is in the engine or waits for its turn until `end_request`."""
        if not self.running:
            self._idle.clear()
        self.running += 1

    def end_request(self) -> None:
        self.running -= 1
        if not self.running:
            self._idle.set()

    @contextmanager
    def asking(self, prompt_bytes: int, unstreamed_tokens: int = 0) -> Iterator[None]:
        """A period in which the engine processes a call, of which `unstreamed_tokens` are not streamed."""
        patience = self.begin_call(prompt_bytes, unstreamed_tokens)
        try:
            yield
        finally:
            self.end_call(patience)

    def begin_call(self, prompt_bytes: int, unstreamed_tokens: int) -> float:
        """Begins what `asking` is, until `end_call` is given the result: the seconds that the call may take."""
        patience = prompt_bytes / _SLOW_PROMPT_BYTES + (0 if self._shows_work else unstreamed_tokens / _SLOW_TOKENS)
        if not self._asked:
            self._asked_since = monotonic()
        self._asked += 1
        self._patience_now += patience
        self.patience = max(self.patience, self._patience_now)
        return patience

    def end_call(self, patience: float) -> None:
        self._asked -= 1
        self._patience_now -= patience
        if not self._asked:
            self._asked_before += monotonic() - self._asked_since

    @property
    def silence(self) -> float:
        """Seconds with calls in the engine since its last sign of life, including cancelled calls."""
        return self._asked_before + (monotonic() - self._asked_since if self._asked else 0.0)

    def succeeded(self) -> None:
        """Call when the engine has returned a success or another piece of a stream."""
        self.last_success = self._asked_since = monotonic()
        self._asked_before = 0.0
        self.patience = self._patience_now

    async def drained(self, within: float) -> bool:
        """Waits up to `within` seconds until no request is left; returns whether that happened."""
        try:
            async with asyncio.timeout(within):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


class Engine(Protocol):
    """One run of an engine: `start`, relay requests according to `relay_for`, `stop`. A restart is a new object."""

    kind: str
    """The name under which it is registered."""
    routes: frozenset[Route]
    activity: Activity
    sharing: Sharing
    turns: TenantQueue
    mapped_bytes: int
    """Bytes of weights that it maps into main memory; 0 if they are allocated, or stored elsewhere."""

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients, `http://127.0.0.1:PORT/v1`; known once started."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers that every request needs: the secret of this run."""

    @property
    def log_tail(self) -> Sequence[str]:
        """The last lines written by the engine. Only for the operator: they may contain paths of this machine."""

    def relay_for(self, public_name: str) -> RelayPolicy:
        """How to translate between clients, who use the name `public_name`, and the engine."""

    async def start(self) -> None:
        """Returns when the engine has given one real answer. Raises EngineError after stopping everything."""

    async def died(self) -> str:
        """Waits until the engine has exited or hangs, and returns the reason."""

    async def health(self) -> bool:
        """Requests the engine's health route."""

    async def load(self) -> Load | None:
        """None if the engine does not report it."""

    async def stop(self, grace: float = 0.0) -> None:
        """Waits up to `grace` seconds for requests, then stops the engine with all its processes."""
