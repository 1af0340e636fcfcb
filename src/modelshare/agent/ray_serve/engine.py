"""The `Engine` of a deployment on a Ray cluster. `driver.py` deploys it; requests go to Serve's HTTP proxy."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from modelshare.agent.engines.base import EngineError, Load, Task
from modelshare.agent.engines.probe import Probe
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.remote import RemoteEngine
from modelshare.agent.engines.sharing import FEW_SLOTS, MANY_SLOTS, PromptCache, Sharing
from modelshare.agent.engines.watch import Timing, Watch
from modelshare.agent.errors import AgentError
from modelshare.agent.pull import Moved
from modelshare.agent.ray_serve.connection import DriverConnection
from modelshare.agent.ray_serve.copies import Copies
from modelshare.agent.ray_serve.facts import FACTS, Facts, vllm_facts
from modelshare.agent.ray_serve.keys import key_digest
from modelshare.agent.ray_serve.messages import Deploy, Failed, Granted, GrantWanted, State
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.wire.agents import Grant
from modelshare.wire.link import DesiredDeployment

_log = logging.getLogger(__name__)
_ANSWER_SECONDS: Final = 120.0
"""For the first answer of an engine that has loaded its model."""
_ABSENT_SECONDS: Final = 120.0
"""How long there may be no replica while Serve replaces those that died."""
_ENDED: Final = "The connection to the Ray cluster was lost"


class RayEngine(RemoteEngine):
    kind = "ray"

    def __init__(
        self,
        wanted: DesiredDeployment,
        settings: RaySettings,
        grants: Callable[[], Awaitable[Grant]],
        state_dir: Path,
        *,
        parallel: int | None = None,
        timing: Timing | None = None,
    ) -> None:
        """`parallel`: sequences that one replica processes at once."""
        self._parallel = parallel or (MANY_SLOTS if settings.uses_ray_llm else FEW_SLOTS)
        key = secrets.token_hex(32)
        super().__init__(
            f"{settings.ingress}/modelshare/{wanted.deployment_id}",
            key,
            Task(wanted.task),
            RelayPolicy(public_name=wanted.served_name, request_model=wanted.served_name),
            Sharing(slots=self._parallel, one_by_one=True, cache=PromptCache.SALTED),
            timing,
        )
        self._key_digest = key_digest(key)
        self._wanted = wanted
        self._settings = settings
        self._grants = grants
        self._state_dir = state_dir
        self._copies = Copies(state_dir, wanted.deployment_id)
        self._driver: DriverConnection | None = None
        self._following: asyncio.Task[None] | None = None
        self._state: State | None = None
        self._failure: str | None = None
        self._moved = Moved()

    @property
    def log_tail(self) -> Sequence[str]:
        return self._driver.log if self._driver is not None else ()

    @property
    def replicas(self) -> int:
        """How many serve."""
        return self._state.replicas if self._state is not None else 0

    async def start(self) -> None:
        """Returns when a replica has given an answer, however long its node pulls. Raises EngineError."""
        try:
            plan = Deploy(self._wanted, self._settings, self._parallel, self._key_digest)
            self._driver = await DriverConnection.start(plan, self._state_dir)
            self._following = asyncio.create_task(self._follow(self._driver))
            await self._replica()
            await self._ask()
        except BaseException:
            await self.stop()
            raise

    async def died(self) -> str:
        watch = Watch(self, self._patient, self._answers)
        ends = [asyncio.create_task(job) for job in (self._failed(), watch.until_hung(probes=False))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                return self._failure
            told = self._state.detail if self._state is not None else ""
            return told or f"{self._settings.ingress} no longer answers for the Ray cluster."
        finally:
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)

    async def health(self) -> bool:
        """Whether a replica serves, and Serve's proxy answers."""
        return self.replicas > 0 and await self._is_up("/v1/models" if self._settings.uses_ray_llm else FACTS)

    async def load(self) -> Load:
        """Nobody else has the key, so these are the agent's own requests."""
        return Load(self.turns.running, self.turns.waiting)

    async def stop(self, grace: float = 0.0) -> None:
        await super().stop(grace)
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def _replica(self) -> None:
        """Waits for the first one."""
        while not self.replicas and self._failure is None:
            await self._moved.wait(_ABSENT_SECONDS)
        if self._failure is not None:
            raise EngineError(self._failure)

    async def _ask(self) -> None:
        """Learns what the engine can do, and has it answer."""
        probe = await self._connect()
        facts = await self._facts(probe)
        self.sharing = replace(self.sharing, one_by_one=facts.one_by_one)
        self._relay = facts.policy(self._wanted.served_name)
        await probe.ask(self._task, self._relay.request_model, _ANSWER_SECONDS)
        self.activity.succeeded()

    async def _facts(self, probe: Probe) -> Facts:
        if self._settings.uses_ray_llm:
            return vllm_facts(self._wanted.served_name, self._wanted.context_length)
        told = await probe.fetch(FACTS, self._timing.probe_timeout)
        try:
            return msgspec.json.decode(told, type=Facts)
        except msgspec.DecodeError as error:
            raise EngineError(
                f"{self._settings.ingress} does not lead to the replicas, or they do not answer. `ingress` in the "
                "settings for Ray has to be the address of Serve's HTTP proxy."
            ) from error

    async def _follow(self, driver: DriverConnection) -> None:
        """Acts on what the driver says, until it ends."""
        tasks = set[asyncio.Task[None]]()
        with suppress(OSError):
            async for message in driver.messages():
                match message:
                    case GrantWanted():
                        task = asyncio.create_task(self._answer_grant(driver, message))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                    case State():
                        self._enter(message)
                    case Failed():
                        self._failure = message.reason
                    case _:
                        pass
        last = next(reversed(driver.log), "")
        self._failure = self._failure or f"{_ENDED}. {last}".strip()
        self._moved.notify()

    def _enter(self, state: State) -> None:
        _log.info("%s: %d replicas on the Ray cluster. %s", self._wanted.served_name, state.replicas, state.detail)
        self._state = state
        self.turns.resize(self._parallel * max(1, state.replicas))
        self._moved.notify()

    async def _answer_grant(self, driver: DriverConnection, message: GrantWanted) -> None:
        _log.info("%s: %s pulls the weights.", self._wanted.served_name, message.copy.host)
        try:
            self._copies.add(self._settings, message.copy)
            grant = await self._grants()
        except (AgentError, OSError) as error:
            driver.send(Granted(message.number, reason=str(error)))
        else:
            # Other agents are reached at addresses that this agent's operator allows, for this agent.
            own = grant.model_copy(update={"sources": []})
            driver.send(Granted(message.number, own.model_dump_json()))

    async def _failed(self) -> None:
        """Returns when the application cannot be used any more."""
        since, loop = None, asyncio.get_running_loop()
        while self._failure is None:
            since = None if self.replicas else since or loop.time()
            if since is not None and loop.time() - since > _ABSENT_SECONDS:
                return
            await self._moved.wait(_ABSENT_SECONDS if since is None else _ABSENT_SECONDS / 10)
