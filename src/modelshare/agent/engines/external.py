"""An engine run by someone else, at any OpenAI-compatible URL (Ollama, Ray Serve, KServe). Never stopped."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from modelshare.agent.engines.base import Engine, EngineError, EngineSpec, ExternalServer, Load
from modelshare.agent.engines.plugin import EngineType, ModelFacts
from modelshare.agent.engines.probe import Probe, RequestRefusedError
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.remote import RemoteEngine
from modelshare.agent.engines.sharing import MANY_SLOTS, PromptCache, Sharing
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


class ExternalEngine(RemoteEngine):
    kind = "external"

    def __init__(self, server: ExternalServer, spec: EngineSpec, *, timing: Timing | None = None) -> None:
        relay = RelayPolicy(
            public_name=spec.served_name,
            request_model=server.model or spec.served_name,
            usage_details=frozenset({"completion_tokens_details"}),  # its cache may contain other tenants' prompts
            context_length=spec.context_length,
        )
        # One sequence per call, since some servers ignore `n` or count only the first answer.
        slots = spec.options.parallel or MANY_SLOTS
        sharing = Sharing(slots=slots, one_by_one=True, cache=PromptCache.SALTED)
        origin = server.base_url.rstrip("/").removesuffix("/v1")
        super().__init__(origin, server.api_key, spec.task, relay, sharing, timing)

    @property
    def log_tail(self) -> Sequence[str]:
        return ()

    async def start(self) -> None:
        try:
            await self._check(await self._connect())
        except BaseException:
            await self.stop()
            raise

    async def died(self) -> str:
        await Watch(self, self._patient, self._answers).until_hung(probes=False)
        what = "is no longer responding" if not await self.health() else "accepts requests but never answers them"
        return f"{self.base_url} {what}. Check the server there."

    async def health(self) -> bool:
        return await self._is_up("/v1/models")

    async def load(self) -> Load | None:
        return None

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
