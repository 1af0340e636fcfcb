"""Assembles the parts of a running agent."""

from pathlib import Path

import aiohttp

from modelshare.agent.cache import Cache
from modelshare.agent.deployment import DeploymentContext, Serving
from modelshare.agent.deployments import DRAIN_SECONDS, Deployments
from modelshare.agent.direct.files import CachedFiles
from modelshare.agent.direct.listener import Listener
from modelshare.agent.direct.options import DirectOptions
from modelshare.agent.direct.sources import DirectReader
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.fleet_status import FleetStatus
from modelshare.agent.hardware import capabilities, memory_bytes
from modelshare.agent.identity import Identity
from modelshare.agent.link import Link
from modelshare.agent.pull import Puller
from modelshare.agent.ram_budget import RamBudget
from modelshare.agent.relay import EngineRelay
from modelshare.agent.server_api import ServerApi
from modelshare.agent.streams import Stream
from modelshare.wire.agents import Grant
from modelshare.wire.link import OLDEST_PROTOCOL, PROTOCOL, Desired, Hello, Welcome
from modelshare.wire.signing import PublicKey
from modelshare.wire.verdict import Verdict


class Agent:
    """Implements `link.LinkHandler`. Runs in `link.run()`; call `stop` at the end."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        data_dir: Path,
        engines: EngineSource,
        http: aiohttp.ClientSession,
        engine_pool: EnginePool,
        *,
        signers: tuple[PublicKey, ...] = (),
        direct: DirectOptions = DirectOptions(),  # noqa: B008 - immutable
    ) -> None:
        """`signers`: see `DeploymentContext`."""
        self._api = api = ServerApi(http, url, identity.token)
        self.link = Link(url, identity.token, self, loads=lambda: self._deployments.loads())  # noqa: PLW0108 - made below
        self._fleet_status = FleetStatus(api, identity, data_dir)
        self._data_dir = data_dir
        self._engines = engines
        self._stopping = False
        cache = Cache(data_dir)
        self._direct = direct
        self._reader = DirectReader(direct.allowed)
        self._puller = Puller(cache, http, direct=self._reader)
        self._shared = CachedFiles(cache, self._puller)
        self._listener = Listener(self._shared, lambda: self._fleet_status.key)
        memory = RamBudget(memory_bytes())
        context = DeploymentContext(cache, self._puller, engines, memory, self._grant, self.link.post, signers=signers)
        self._deployments = Deployments(context, self.link.post)
        self._relay = EngineRelay(engine_pool, self._deployments.serving)

    def hello(self) -> Hello:
        """See `link.LinkHandler`."""
        machine = capabilities(self._data_dir, self._engines.kinds())
        return Hello(
            OLDEST_PROTOCOL,
            machine.agent_version,
            machine.engines,
            machine.accelerator,
            machine.memory_bytes or 0,
            machine.disk_free_bytes or 0,
            newest_protocol=PROTOCOL,
            direct=self._listener.announced(self._direct),
        )

    async def _grant(self, deployment_id: str) -> Grant:
        async with self._reader.request() as request:
            return await self._api.grant(deployment_id, request)

    def listen(self) -> None:
        """Lets other agents fetch files from here, if the operator allows it. Raises StopError."""
        self._listener.start(self._direct, self._data_dir)

    def welcomed(self, welcome: Welcome) -> None:
        """See `link.LinkHandler`."""
        self._fleet_status.store_key(welcome.verdict_key)

    async def verdict(self) -> Verdict | None:
        """See `link.LinkHandler`."""
        return await self._fleet_status.verdict()

    def desired(self, desired: Desired) -> None:
        """See `link.LinkHandler`."""
        if not self._stopping:
            self._deployments.reconcile(desired)

    def serve(self, stream: Stream) -> None:
        """See `link.LinkHandler`."""
        self._relay.serve(stream)

    def serving(self, deployment_id: str) -> Serving | None:
        """The engine that accepts requests for the deployment now, if any."""
        return self._deployments.serving(deployment_id)

    async def stop(self, grace: float = DRAIN_SECONDS) -> None:
        """Finishes requests in progress over the open link, and stops every engine. Weights are kept."""
        self._stopping = True
        await self._deployments.stop(grace)
        await self.link.flush()
        await self._listener.close()
        await self._reader.close()
        self._puller.close()
        self._shared.close()

    async def remove_all(self) -> None:
        """Stops every engine immediately and deletes all weights."""
        self._stopping = True
        await self._deployments.remove_all()
