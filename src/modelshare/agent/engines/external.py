"""An engine run by someone else, at any OpenAI-compatible URL (Ollama, Ray Serve, KServe). Never stopped."""

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from modelshare.agent.engines.base import (
    ROUTES_OF_TASK,
    Activity,
    Engine,
    EngineError,
    EngineSpec,
    ExternalServer,
    Load,
)
from modelshare.agent.engines.plugin import EngineType, ModelFacts
from modelshare.agent.engines.probe import Probe, RequestRefusedError
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import MANY_SLOTS, PromptCache, Sharing, TenantQueue
from modelshare.agent.engines.watch import Timing, Watch

_log = logging.getLogger(__name__)


class External(EngineType):
    rank = 50
    only_on_request = True

    def missing(self) -> str | None:
        return None if self.machine.external else "no external server is configured."

    def unsuited(self, model: ModelFacts) -> None:
        del model  # the operator knows what the server supports

    def engine(self, spec: EngineSpec, scratch: Path) -> Engine:
        del scratch
        assert self.machine.external  # noqa: S101  checked by `missing`
        return ExternalEngine(self.machine.external, spec)


class ExternalEngine:
    """An `Engine` without a process."""

    kind = "external"
    mapped_bytes = 0

    def __init__(self, server: ExternalServer, spec: EngineSpec, *, timing: Timing | None = None) -> None:
        self.routes = ROUTES_OF_TASK[spec.task]
        self.activity = Activity()
        # One sequence per call, since some servers ignore `n` or count only the first answer.
        slots = spec.options.parallel or MANY_SLOTS
        self.sharing = Sharing(slots=slots, one_by_one=True, cache=PromptCache.SALTED)
        self.turns = TenantQueue(self.sharing.slots)
        self._origin = server.base_url.rstrip("/").removesuffix("/v1")
        self._key = server.api_key
        self._task = spec.task
        self._relay = RelayPolicy(
            public_name=spec.served_name,
            request_model=server.model or spec.served_name,
            usage_details=frozenset({"completion_tokens_details"}),  # its cache may contain other tenants' prompts
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
        timing = replace(self._timing, recent=0.0)  # its health route is always quick, unless it is down
        await Watch(self, timing, self._answers).until_hung(probes=False)
        what = "is no longer responding" if not await self.health() else "accepts requests but never answers them"
        return f"{self.base_url} {what}. Check the server there."

    async def health(self) -> bool:
        return self._probe is not None and await self._probe.is_up("/v1/models", self._timing.probe_timeout)

    async def load(self) -> Load | None:
        return None

    async def work(self) -> float | None:
        """See `watch.Watched`."""
        return None

    async def stop(self, grace: float = 0.0) -> None:
        if grace:
            await self.activity.drained(grace)
        await self._resources.aclose()
        self._probe = None

    async def _check(self, probe: Probe) -> None:
        if not await self.health():
            raise EngineError(f"{self.base_url}/models is not responding. Start the server, or correct its URL or key.")
        model, seconds = self._relay.request_model, self._timing.probe_timeout
        try:
            await probe.ask(self._task, model, seconds, {"cache_salt": token_hex(32)})
        except RequestRefusedError:
            await probe.ask(self._task, model, seconds)
            self.sharing = replace(self.sharing, cache=PromptCache.NONE)
            _log.warning(
                "%s does not support `cache_salt`: if it keeps a prompt cache, projects that share it can infer "
                "from response times what others asked. Use it for one project only, or turn that cache off.",
                self.base_url,
            )
        self.activity.succeeded()

    async def _answers(self, within: float) -> bool:
        return self._probe is not None and await self._probe.answers(self._task, self._relay.request_model, within)
