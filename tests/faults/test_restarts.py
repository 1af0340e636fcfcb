"""Three `modelshare serve` on one PostgreSQL, behind a load balancer, under chats and streams: what clients notice when
one stops, is killed, or hangs. `benchmarks/restarts.py` does the same for longer, with complete agents.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from balancer import Balancer, Load
from link_agent import ALL_ROUTES, enroll
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.link import Link
from modelshare.agent.streams import Stream
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import Phase
from modelshare.wire.endpoints import EndpointCreate
from modelshare.wire.link import OLDEST_PROTOCOL, PROTOCOL, Desired, Hello, Report, Welcome
from modelshare.wire.verdict import Verdict
from programs import SECRET, Server, serving
from served import free_port, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]
TOKENS = 20


class Machine:
    """An agent with a real link, whose engine says what it is asked to. Implements `link.LinkHandler`."""

    def __init__(self, url: str, token: str) -> None:
        self.link = Link(url, token, self)

    def hello(self) -> Hello:
        return Hello(OLDEST_PROTOCOL, "0.1.0", ["llamacpp"], "cpu", 1 << 34, 1 << 40, newest_protocol=PROTOCOL)

    def desired(self, desired: Desired) -> None:
        for one in desired.deployments:
            self.link.post(Report(one.deployment_id, Phase.READY, 0, 0, routes=ALL_ROUTES))

    def welcomed(self, welcome: Welcome) -> None:
        pass

    async def verdict(self) -> Verdict | None:
        return None

    def serve(self, stream: Stream) -> None:
        if b"stream" in stream.body:
            stream.run(self._say(stream))
        else:
            stream.answer(200, "application/json", b'{"content": "Hi"}')

    async def _say(self, stream: Stream) -> None:
        stream.head(200, "text/event-stream")
        for _ in range(TOKENS):
            stream.chunk(b'data: {"content": "Hi"}\n\n')
            await asyncio.sleep(0.05)
        stream.end(TokenUsage())


@pytest.fixture
def servers(database_url: str, tmp_path: Path) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        found: list[Server] = []
        for _ in range(3):
            key = found[0].platform_key if found else ""
            server = serving(
                tmp_path / "shared",
                platform_key=key,
                database_url=database_url,
                secret=SECRET,
                shutdown_notice_seconds="0" if found else "10",
            )
            found.append(stack.enter_context(server))
        yield found


@pytest.fixture
def balancer(servers: list[Server]) -> Balancer:
    return Balancer([port_of(server) for server in servers])


@pytest.fixture
async def load(servers: list[Server], balancer: Balancer, tmp_path: Path) -> AsyncIterator[Load]:
    """Of an endpoint whose two machines are connected to every process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    project = servers[0].project("acme")
    write_gguf(tmp_path / "tiny.gguf", name="tiny")
    with servers[0].client(project) as client:
        model = push_model(client, tmp_path / "tiny.gguf", name="tiny").model
        client.endpoints.create(EndpointCreate(slug="chat", model=model.id, tier="self_hosted"))
    headers = {"Authorization": f"Bearer {project.api_key}"}
    async with (
        balancer.running(port),
        httpx.AsyncClient(base_url=servers[0].url, headers=headers, timeout=30) as http,
    ):
        machines = [Machine(url, (await enroll(http, name=name))[1]) for name in ("one", "two")]
        running = [asyncio.create_task(machine.link.run()) for machine in machines]

        async def all_are_connected() -> bool:
            endpoint = (await http.get("/v1/endpoints/chat")).json()
            return endpoint["status"] == "active" and all(len(machine.link._links) == 3 for machine in machines)

        await wait_until(all_are_connected)
        path = f"{url}/{project.id}/chat/v1/chat/completions"
        yield Load(path, project.api_key, b'{"n": 1}', b'{"stream": true}', TOKENS, most_chats=50, streams=15)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_stop_in_good_order_fails_no_request(servers: list[Server], load: Load) -> None:
    stopped = servers[0]
    async with load.running(), httpx.AsyncClient(base_url=stopped.url) as http:
        await wait_until(lambda: answered(load, 20))
        stopped.process.send_signal(signal.SIGTERM)

        async def says_so() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await http.get("/readyz")).status_code == 503
            return False

        await wait_until(says_so)
        assert await asyncio.to_thread(stopped.process.wait, 60) == 0
        before = load.answered["chat"]
        await wait_until(lambda: answered(load, before + 20))
    assert load.failures == [], load.told()


async def test_a_kill_ends_only_its_own_requests_and_a_frozen_process_holds_nobody_up(
    servers: list[Server], balancer: Balancer, load: Load
) -> None:
    killed, frozen, _ = servers

    async def is_out_of_use() -> bool:
        return port_of(killed) not in balancer.ready

    async def is_cut_off() -> bool:
        return port_of(frozen) in balancer.cut_off

    async with load.running():
        await wait_until(lambda: answered(load, 20))
        killed.process.send_signal(signal.SIGKILL)
        await wait_until(is_out_of_use)
        at = time.monotonic()
        before = load.answered["chat"]
        await wait_until(lambda: answered(load, before + 60))
        assert [why for began, _, why in load.failures if began > at + 1] == []
        balancer.cut_off.clear()
        frozen.process.send_signal(signal.SIGSTOP)
        at = time.monotonic()
        try:
            before = load.answered["chat"]
            await wait_until(is_cut_off)
            until_cut_off = time.monotonic() - at
            await wait_until(lambda: answered(load, before + 60))
        finally:
            frozen.process.send_signal(signal.SIGCONT)
    assert load.longest < until_cut_off + 8, load.told()


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


async def answered(load: Load, count: int) -> bool:
    return load.answered["chat"] >= count
