"""The server's end of the link, controlled by a test: real WebSocket, real frames."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import aiohttp
from aiohttp import web

from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.link import Link, LinkHandler
from modelshare.agent.streams import Stream
from modelshare.wire.agents import Enroll, Enrolled, Grant
from modelshare.wire.errors import ErrorBody, ErrorEnvelope, ErrorType
from modelshare.wire.link import (
    HEARTBEAT_SECONDS,
    INITIAL_CREDIT,
    LINKED_HEADER,
    MAX_FRAME,
    PROTOCOL,
    DeploymentLoad,
    Desired,
    DesiredDeployment,
    Frame,
    FromAgent,
    Hello,
    Ping,
    Request,
    Welcome,
    encode,
)
from modelshare.wire.link_messages import read_from_agent
from modelshare.wire.verdict import STATUS_PATH, AgentStatus, Verdict, sign

TOKEN = "msa_test"
VERDICT_KEY = "ab" * 32
F = TypeVar("F", bound=FromAgent)


class Peer:
    """Collects frames from the agent in `frames`, and counts links in `links`."""

    def __init__(self) -> None:
        self.url = ""
        self.patience = 60.0
        """Seconds to wait for an expected frame."""
        self.links = 0
        self.messages = 0
        self.refuse_with: int | None = None
        self.refusals = 0
        self.protocol = PROTOCOL
        self.running: dict[str, web.WebSocketResponse | None] = {}
        """Processes of the server, chosen in turn, and their links; none: the server does not name them."""
        self._turn = 0
        self.welcome_key = ""
        self.verdict: Verdict | None = None
        self.verdict_key = VERDICT_KEY
        self.reads = True
        self.frames: list[FromAgent] = []
        self.socket: web.WebSocketResponse | None = None
        self.join_keys = {"msj_good"}
        self.enrolled: list[Enroll] = []
        self.grant: Callable[[], Awaitable[Grant]] | None = None
        self._arrived = asyncio.Condition()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_with is not None:
            self.refusals += 1
            return web.Response(status=self.refuse_with)
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        process = self._choose()
        if process and process in request.headers.get(LINKED_HEADER, "").split(","):
            self.refusals += 1
            return web.Response(status=421)
        socket = web.WebSocketResponse(max_msg_size=MAX_FRAME)
        await socket.prepare(request)
        self.links += 1
        self.socket = socket
        if process:
            self.running[process] = socket
        welcome = Welcome(self.protocol, "agent_1", "box", self.welcome_key, process, list(self.running))
        await socket.send_bytes(encode(welcome))
        beating = asyncio.create_task(self._beat(socket))
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.messages += 1
                    async with self._arrived:
                        self.frames += read_from_agent(message.data)
                        self._arrived.notify_all()
        finally:
            beating.cancel()
        return socket

    async def _beat(self, socket: web.WebSocketResponse) -> None:
        """Sends heartbeats, as every server does: the agent leaves one that is silent."""
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                await socket.send_bytes(encode(Ping()))

    def _choose(self) -> str:
        self._turn += 1
        return list(self.running)[self._turn % len(self.running)] if self.running else ""

    async def status(self, request: web.Request) -> web.Response:
        if self.verdict is None:
            return web.Response(status=404)
        token = request.headers["Authorization"].removeprefix("Bearer ")
        agent_id, nonce = request.query["agent_id"], request.query["nonce"]
        signature = sign(self.verdict_key, nonce=nonce, agent_id=agent_id, token=token, verdict=self.verdict)
        status = AgentStatus(agent_id=agent_id, verdict=self.verdict, signature=signature)
        return web.json_response(text=status.model_dump_json())

    async def enroll(self, request: web.Request) -> web.Response:
        body = Enroll.model_validate_json(await request.read())
        if body.join_key not in self.join_keys:
            error = ErrorBody(message="The join key was revoked.", type=ErrorType.AUTHENTICATION)
            return web.json_response(text=ErrorEnvelope(error=error).model_dump_json(), status=401)
        self.enrolled.append(body)
        return web.json_response(
            text=Enrolled(agent_id="agent_1", token=TOKEN, verdict_key=VERDICT_KEY).model_dump_json(), status=201
        )

    async def issue_grant(self, _: web.Request) -> web.Response:
        if self.grant is None:
            return web.Response(status=404)
        return web.json_response(text=(await self.grant()).model_dump_json())

    async def send(self, *frames: Frame) -> None:
        """Sends frames in one message."""
        assert self.socket is not None
        await self.socket.send_bytes(encode(frames[0] if len(frames) == 1 else frames))

    async def expect(self, kind: type[F], where: Callable[[F], bool] = lambda _: True) -> F:
        """Waits for the first frame of this kind, and removes it from `frames`."""

        def found() -> F | None:
            return next((frame for frame in self.frames if isinstance(frame, kind) and where(frame)), None)

        async with asyncio.timeout(self.patience), self._arrived:
            await self._arrived.wait_for(lambda: found() is not None)
            frame = found()
            assert frame is not None
            self.frames.remove(frame)
            return frame

    async def want(self, *deployments: DesiredDeployment, revision: int = 1) -> None:
        await self.send(Desired(revision, list(deployments)))

    async def ask(
        self,
        body: bytes,
        *,
        stream: int = 1,
        deployment: str = "dep_1",
        route: str = "chat/completions",
        timeout: float = 20,  # noqa: ASYNC109 - a field of the frame
        credit: int = INITIAL_CREDIT,
    ) -> None:
        await self.send(Request(stream, deployment, route, body, more=False, timeout=timeout, credit=credit))


class Recorder:
    """Records what a link receives, and answers requests with `respond`."""

    def __init__(self) -> None:
        self.received: list[Desired] = []
        self.respond: Callable[[Stream], Awaitable[None]] = self._echo
        self.cancelled: list[int] = []
        self.welcomes: list[Welcome] = []
        self.said: Verdict | None = None
        """The verdict to return."""
        self.asked = 0

    def hello(self) -> Hello:
        return Hello(PROTOCOL, "0.0", ["llamacpp"], "cpu", 1, 2)

    def desired(self, desired: Desired) -> None:
        self.received.append(desired)

    def welcomed(self, welcome: Welcome) -> None:
        self.welcomes.append(welcome)

    async def verdict(self) -> Verdict | None:
        self.asked += 1
        return self.said

    def serve(self, stream: Stream) -> None:
        stream.run(self._serve(stream))

    async def _serve(self, stream: Stream) -> None:
        try:
            await self.respond(stream)
        except asyncio.CancelledError:
            self.cancelled.append(stream.id)
            raise

    async def _echo(self, stream: Stream) -> None:
        stream.answer(200, "application/json", bytes(stream.body), TokenUsage(3, 4))


@asynccontextmanager
async def peer_server() -> AsyncIterator[Peer]:
    peer = Peer()
    app = web.Application()
    app.router.add_get("/v1/agent/link", peer.serve)
    app.router.add_get(STATUS_PATH, peer.status)
    app.router.add_post("/v1/enroll", peer.enroll)
    app.router.add_post("/v1/agent/deployments/{deployment}/grant", peer.issue_grant)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    peer.url = "http://{}:{}".format(*runner.addresses[0][:2])
    try:
        yield peer
    finally:
        if peer.socket is not None:
            await peer.socket.close()
        await runner.cleanup()


@asynccontextmanager
async def linked(
    peer: Peer,
    served: LinkHandler,
    *,
    loads: Callable[[], list[DeploymentLoad]] = list,
    heartbeat: float | None = None,
    dead_after: float = 600,
) -> AsyncIterator[Link]:
    """A running link to the peer. With a custom heartbeat, does not wait for its first frame."""
    beat = HEARTBEAT_SECONDS if heartbeat is None else heartbeat
    link = Link(peer.url, TOKEN, served, loads=loads, retry_first=0.01, heartbeat=beat, dead_after=dead_after)
    running = asyncio.create_task(link.run())
    try:
        if heartbeat is None:
            await peer.expect(Hello)
        yield link
    finally:
        running.cancel()
        await asyncio.wait([running])
