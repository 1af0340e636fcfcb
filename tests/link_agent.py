"""A fake agent without an engine, controlled by tests, on a real WebSocket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx

from modelshare.wire.agents import Phase
from modelshare.wire.link import (
    HEARTBEAT_SECONDS,
    LINK_PATH,
    LINKED_HEADER,
    PROTOCOL,
    Answer,
    Body,
    Cancel,
    Chunk,
    Credit,
    Desired,
    DesiredDeployment,
    End,
    Frame,
    FromAgent,
    FromServer,
    Head,
    Hello,
    Ping,
    Report,
    Request,
    Welcome,
    encode,
)
from modelshare.wire.link_messages import read_from_server
from served import wait_until

ALL_ROUTES = ["chat/completions", "completions", "embeddings"]
Handler = Callable[["LinkAgent", Request, bytes], Awaitable[None]]


@dataclass
class LinkAgent:
    """One link. Requests are passed to `handler` if there is one, else queued in `requests`."""

    socket: aiohttp.ClientWebSocketResponse
    agent_id: str
    handler: Handler | None = None
    desired: Desired | None = None
    requests: asyncio.Queue[tuple[Request, bytes]] = field(default_factory=asyncio.Queue)
    cancelled: list[int] = field(default_factory=list)
    credit: dict[int, int] = field(default_factory=dict)
    pings: int = 0
    protocol: int | None = None
    """The version in the server's `Welcome`."""
    process: str = ""
    """The process at the other end."""
    processes: list[str] = field(default_factory=list)
    """Those that accept links."""
    closed: tuple[int | None, str] | None = None
    _sent: dict[int, int] = field(default_factory=dict)
    _bodies: dict[int, tuple[Request, bytearray]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def send(self, frame: FromAgent) -> None:
        await self.socket.send_bytes(encode(frame))

    async def chunk(self, request: Request, data: bytes) -> None:
        """Sends part of a response body, after waiting for credit."""
        self._sent[request.stream] = self._sent.get(request.stream, 0) + len(data)

        async def allowed() -> bool:
            return self._sent[request.stream] <= request.credit + self.credit.get(request.stream, 0)

        await wait_until(allowed)
        await self.send(Chunk(request.stream, data))

    async def report(self, deployment_id: str, phase: Phase, routes: list[str] = ALL_ROUTES, **progress: Any) -> None:
        figures = {"bytes_done": 0, "bytes_total": 0, **progress}
        await self.send(Report(deployment_id, phase, routes=routes if phase is Phase.READY else [], **figures))

    async def wanted(self, count: int = 1) -> list[DesiredDeployment]:
        """Waits until the desired state has `count` deployments, and returns them."""

        async def check() -> Desired | None:
            return self.desired if self.desired and len(self.desired.deployments) == count else None

        desired = await wait_until(check)
        assert desired is not None
        return desired.deployments

    async def make_ready(self, count: int = 1, routes: list[str] = ALL_ROUTES) -> list[DesiredDeployment]:
        """Waits until the desired state has `count` deployments, and reports all as ready."""
        wanted = await self.wanted(count)
        for one in wanted:
            await self.report(one.deployment_id, Phase.READY, routes)
        return wanted

    async def request(self) -> tuple[Request, bytes]:
        """The next request with its complete body."""
        return await asyncio.wait_for(self.requests.get(), 60)

    async def end(self) -> tuple[int | None, str]:
        """Waits until the server has closed the link; returns the close code and reason."""

        async def check() -> tuple[int | None, str] | None:
            return self.closed

        return await wait_until(check, 60)

    async def beat(self) -> None:
        """Sends heartbeats, as every agent does: the server closes a link that is silent."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self.send(Ping())

    async def run(self) -> None:
        while (message := await self.socket.receive()).type is aiohttp.WSMsgType.BINARY:
            for frame in read_from_server(message.data):
                self._receive(frame)
        self.closed = (message.data if message.type is aiohttp.WSMsgType.CLOSE else None), str(message.extra or "")

    def _receive(self, frame: FromServer) -> None:
        match frame:
            case Desired():
                self.desired = frame
            case Request():
                self._bodies[frame.stream] = frame, bytearray(frame.body)
                self._whole(frame.stream, more=frame.more)
            case Body():
                self._bodies[frame.stream][1].extend(frame.data)
                self._whole(frame.stream, more=frame.more)
            case Cancel():
                self.cancelled.append(frame.stream)
            case Credit():
                self.credit[frame.stream] = self.credit.get(frame.stream, 0) + frame.bytes
            case Ping():
                self.pings += 1
                self.processes = frame.processes or self.processes
            case Welcome():
                self.protocol, self.process, self.processes = frame.protocol, frame.process, frame.processes

    def _whole(self, stream: int, *, more: bool) -> None:
        if more:
            return
        request, body = self._bodies.pop(stream)
        if self.handler is None:
            self.requests.put_nowait((request, bytes(body)))
            return
        task = asyncio.ensure_future(self.handler(self, request, bytes(body)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def enroll(http: httpx.AsyncClient, *, name: str = "box", tiers: list[str] | None = None) -> tuple[str, str]:
    """Creates a join key with the caller's key and enrolls with it; returns the agent's id and token."""
    path = "/v1/platform/join-keys" if tiers else "/v1/join-keys"
    made = await http.post(path, json={"name": name, "tiers": tiers} if tiers else {"name": name})
    assert made.status_code == 201, made.text
    answer = await http.post("/v1/enroll", json={"join_key": made.json()["key"], "name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["agent_id"], answer.json()["token"]


@asynccontextmanager
async def linked(
    url: str,
    token: str,
    *,
    agent_id: str = "",
    handler: Handler | None = None,
    hello: Frame | None = None,
    linked_to: str = "",
) -> AsyncIterator[LinkAgent]:
    """Opens a link to the server at `url` for the duration of the block.

    `linked_to`: names of processes to which the agent has links.
    """
    async with aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {token}", LINKED_HEADER: linked_to}
        async with http.ws_connect(url + LINK_PATH, headers=headers, max_msg_size=0) as socket:
            agent = LinkAgent(socket, agent_id, handler)
            await socket.send_bytes(encode(hello or Hello(PROTOCOL, "0.1.0", ["llamacpp"], "cpu", 1 << 34, 1 << 40)))
            running = [asyncio.ensure_future(agent.run()), asyncio.ensure_future(agent.beat())]
            try:
                yield agent
            finally:
                tasks = [*running, *agent._tasks]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


def hello_of(instance: str) -> Hello:
    """The first frame of an agent that names its run."""
    return Hello(PROTOCOL, "0.1.0", ["llamacpp"], "cpu", 1 << 34, 1 << 40, instance=instance)


def answer(request: Request, data: bytes, *, status: int = 200, tokens: tuple[int, int] = (3, 8)) -> Answer:
    """A complete JSON response."""
    return Answer(request.stream, status, "application/json", data, *tokens)


def refusal(request: Request) -> Answer:
    """The response of an agent that does not serve the deployment."""
    error = b'{"error": {"message": "Not here.", "type": "server_error", "code": "model_loading", "param": null}}'
    return Answer(request.stream, 503, "application/json", error, refused=True)


async def answer_events(
    agent: LinkAgent, request: Request, events: list[bytes], *, tokens: tuple[int, int] = (3, 8)
) -> None:
    """Streams a response with these events."""
    await agent.send(Head(request.stream, 200, "text/event-stream; charset=utf-8"))
    for event in events:
        await agent.send(Chunk(request.stream, b"data: " + event + b"\n\n"))
    await agent.send(End(request.stream, None, *tokens))
