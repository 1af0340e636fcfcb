"""An engine that somebody else runs, at any OpenAI-compatible URL (Ollama, Ray Serve, KServe); never stopped."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from modelshare.agent.engines.base import ROUTES_OF_TASK, Activity, EngineError, EngineKind, EngineSpec, Load
from modelshare.agent.engines.probe import Probe
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.supervisor import Timing


@dataclass(frozen=True, slots=True)
class ExternalServer:
    """The operator's own server."""

    base_url: str
    """With or without `/v1` at its end."""
    api_key: str | None = None
    model: str | None = None
    """What it calls the model; None: the public name."""


class ExternalEngine:
    """An `Engine` without a process."""

    kind = EngineKind.EXTERNAL
    mapped_bytes = 0

    def __init__(self, server: ExternalServer, spec: EngineSpec, *, timing: Timing | None = None) -> None:
        self.routes = ROUTES_OF_TASK[spec.task]
        self.activity = Activity()
        self._origin = server.base_url.rstrip("/").removesuffix("/v1")
        self._key = server.api_key
        self._task = spec.task
        self._relay = RelayPolicy(
            public_name=spec.served_name,
            request_model=server.model or spec.served_name,
            context_length=spec.context_length,
        )
        self._timing = timing or Timing()
        self._probe: Probe | None = None
        self._resources = AsyncExitStack()

    @property
    def base_url(self) -> str:
        return f"{self._origin}/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    @property
    def log_tail(self) -> Sequence[str]:
        return ()

    def relay_for(self, public_name: str) -> RelayPolicy:
        return self._relay.under(public_name)

    async def start(self) -> None:
        self._probe = await self._resources.enter_async_context(Probe(self._origin, self.headers))
        try:
            await self._check(self._probe)
        except BaseException:
            await self.stop()
            raise

    async def died(self) -> str:
        strikes = 0
        while strikes < self._timing.strikes:
            await asyncio.sleep(self._timing.watch)
            strikes = 0 if await self.health() else strikes + 1
        return f"{self.base_url}/models does not answer any more."

    async def health(self) -> bool:
        return self._probe is not None and await self._probe.is_up("/v1/models", self._timing.probe_timeout)

    async def load(self) -> Load | None:
        return None

    async def stop(self, grace: float = 0.0) -> None:
        if grace:
            await self.activity.drained(grace)
        await self._resources.aclose()
        self._probe = None

    async def _check(self, probe: Probe) -> None:
        if not await self.health():
            raise EngineError(f"{self.base_url}/models does not answer; start the server, or correct its URL or key.")
        await probe.ask(self._task, self._relay.request_model, self._timing.probe_timeout)
        self.activity.succeeded()
