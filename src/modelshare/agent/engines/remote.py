"""What engines have in common that others start, and that are reached at a URL."""

from contextlib import AsyncExitStack
from dataclasses import replace

from modelshare.agent.engines.base import ROUTES_OF_TASK, Activity, Task
from modelshare.agent.engines.probe import Probe
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing, TenantQueue
from modelshare.agent.engines.watch import Timing


class RemoteEngine:
    """Most of an `Engine` without a process of its own."""

    mapped_bytes = 0

    def __init__(
        self, origin: str, key: str | None, task: Task, relay: RelayPolicy, sharing: Sharing, timing: Timing | None
    ) -> None:
        """`origin`: its URL without `/v1`. `key`: for its API, if it wants one."""
        self.routes = ROUTES_OF_TASK[task]
        self.activity = Activity()
        self.sharing = sharing
        self.turns = TenantQueue(sharing.slots)
        self.base_url = f"{origin}/v1"
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._origin = origin
        self._task = task
        self._relay = relay
        self._timing = timing or Timing()
        self._patient = replace(self._timing, recent=0.0)
        """For watching it: its health route is always quick, unless it is down."""
        self._probe: Probe | None = None
        self._resources = AsyncExitStack()

    def relay_for(self, public_name: str) -> RelayPolicy:
        return self._relay.under(public_name)

    async def work(self) -> float | None:
        """See `watch.WatchedEngine`."""
        return None

    async def stop(self, grace: float = 0.0) -> None:
        if grace:
            await self.activity.drained(grace)
        await self._resources.aclose()
        self._probe = None

    async def _connect(self) -> Probe:
        self._probe = await self._resources.enter_async_context(Probe(self._origin, self.headers))
        return self._probe

    async def _is_up(self, path: str) -> bool:
        return self._probe is not None and await self._probe.is_up(path, self._timing.probe_timeout)

    async def _answers(self, within: float) -> bool:
        return self._probe is not None and await self._probe.answers(self._task, self._relay.request_model, within)
