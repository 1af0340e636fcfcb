"""Requests for agents that are connected only to another process: a WebSocket to that process for each such agent.

`GET /internal/v1/links/{agent_id}`. Its frames are those of the agent's own link, so that a forwarded request is
treated as any other: here `AgentLink` sends it, there `_Passing` hands it to the agent's link. The handshake is signed
with the platform's secret and valid once, within half a minute, so that only processes of the platform can open one.
"""

import asyncio
import contextlib
import hmac
import importlib
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from modelshare.server.fleet.link import AgentLink, FrameSender
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import LinkRequest, StreamBrokenError
from modelshare.server.front.request import PEER_LINKS
from modelshare.server.front.websocket import MESSAGES, Listener, WebSocket
from modelshare.server.ids import parse_uuid
from modelshare.wire.link import (
    MAX_FRAME,
    PROTOCOL,
    Answer,
    AnswerFrame,
    Body,
    Cancel,
    CloseCode,
    Credit,
    End,
    Ping,
    Request,
)
from modelshare.wire.link_messages import read_from_server

if TYPE_CHECKING:
    import uuid

    import aiohttp

PREFIX: Final = PEER_LINKS
_PATH: Final = re.compile(re.escape(PREFIX) + r"([0-9a-f-]{36})")
_VALID_SECONDS: Final = 30
_TIME: Final = "x-modelshare-time"
_NONCE: Final = "x-modelshare-nonce"
_SIGNATURE: Final = "x-modelshare-signature"
_ACCEPT_SECONDS: Final = 2.0
"""How long a process may take to accept a connection."""
_SKIPPED_SECONDS: Final = 5.0
"""How long a process that did not is not asked again."""
_BEAT_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 6.0
"""A process that has sent nothing for so long hangs."""
_IDLE_SECONDS: Final = 60.0
"""How long a connection is kept after the last request."""
_MAX_UNSENT: Final = 1 << 20
"""Bytes that may wait to be sent before long requests take turns."""
_MISDIRECTED: Final = 421
"""Status of an answer that says that the agent takes no request from this process any more."""


class Forwarder:
    """Both ends: asks other processes, and answers them."""

    def __init__(self, links: AgentLinks, secret: bytes, clock: Callable[[], float]) -> None:
        self._links = links
        self._secret = hmac.digest(secret, b"modelshare internal links 1", "sha256")
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None
        self._open: dict[uuid.UUID, AgentLink] = {}
        self._connecting: dict[uuid.UUID, asyncio.Task[AgentLink]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._skipped: dict[str, float] = {}
        """Addresses of processes that hang, and until when they are not asked, by the event loop's clock."""
        self._seen: dict[str, float] = {}
        """Nonces of handshakes, and when they were used."""

    async def stop(self) -> None:
        tasks = [*self._running, *self._connecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def link(self, target: Target) -> AgentLink | None:
        """The connection through another process, if there is one."""
        return self._open.get(target.agent_id)

    async def connect(self, target: Target) -> AgentLink:
        """The connection through another process. Raises StreamBrokenError if none of them has the agent."""
        connecting = self._connecting.get(target.agent_id)
        if connecting is None:
            connecting = self._connecting[target.agent_id] = asyncio.create_task(self._connect(target))
            connecting.add_done_callback(lambda _: self._connecting.pop(target.agent_id, None))
            connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(connecting)

    async def _connect(self, target: Target) -> AgentLink:
        path, now = f"{PREFIX}{target.agent_id}", asyncio.get_running_loop().time
        why = "The agent is not connected to another process."
        for address in target.addresses:
            if address == self._links.address or now() < self._skipped.get(address, 0):
                continue
            try:
                async with asyncio.timeout(_ACCEPT_SECONDS):
                    headers, size = self._signed(address + path), 2 * MAX_FRAME
                    socket = await self._session().ws_connect(address + path, headers=headers, max_msg_size=size)
            except TimeoutError:
                self._skipped[address] = now() + _SKIPPED_SECONDS
                why = f"{address} is not responding."
            except (_aiohttp().ClientError, OSError) as error:
                why = f"{address} cannot be asked: {error}."
            else:
                return self._start(target, socket)
        raise StreamBrokenError(why)

    def _start(self, target: Target, socket: "aiohttp.ClientWebSocketResponse") -> AgentLink:
        wire = _PeerWire(socket)
        link = AgentLink(
            wire,
            PROTOCOL,
            asyncio.get_running_loop().time,
            heartbeat=_BEAT_SECONDS,
            dead_after=_SILENT_SECONDS,
            unused_after=_IDLE_SECONDS,
        )
        self._open[target.agent_id] = link
        task = asyncio.create_task(self._run(target, link, wire))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return link

    async def _run(self, target: Target, link: AgentLink, wire: "_PeerWire") -> None:
        try:
            await link.run(_ignore, _ignore, wire.read(), wire.write())
        finally:
            if self._open.get(target.agent_id) is link:
                del self._open[target.agent_id]
            await wire.close()

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The WebSocket of another process. 403 without a valid signature, and if the agent is not connected here."""
        await receive()  # websocket.connect
        named = _PATH.fullmatch(scope["path"])
        agent_id = parse_uuid(named[1]) if named else None
        link = self._links.get(agent_id) if agent_id and self._is_signed(scope) else None
        if link is None or not link.accepts:
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        await _Passing(scope["extensions"][MESSAGES], link).run()
        with contextlib.suppress(OSError):
            await send({"type": "websocket.close", "code": int(CloseCode.GOING_AWAY)})

    def _session(self) -> "aiohttp.ClientSession":
        if self._http is None:
            http = _aiohttp()
            self._http = http.ClientSession(connector=http.TCPConnector(limit=0))
        return self._http

    def _signed(self, url: str) -> dict[str, str]:
        headers = {_TIME: str(int(self._clock())), _NONCE: secrets.token_hex(16)}
        return {**headers, _SIGNATURE: self._signature(url, headers)}

    def _is_signed(self, scope: Scope) -> bool:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given, now = headers.get(_SIGNATURE, ""), self._clock()
        expected = self._signature(self._links.address + scope["path"], headers)
        if not hmac.compare_digest(given.encode(), expected.encode()):
            return False
        self._seen = {nonce: used for nonce, used in self._seen.items() if used > now - 2 * _VALID_SECONDS}
        is_new = headers[_NONCE] not in self._seen
        self._seen[headers[_NONCE]] = now
        return is_new and abs(now - int(headers[_TIME])) <= _VALID_SECONDS

    def _signature(self, url: str, headers: Mapping[str, str]) -> str:
        text = "\n".join([url, *(headers.get(name, "") for name in (_TIME, _NONCE))])
        return hmac.new(self._secret, text.encode(), "sha256").hexdigest()


class _PeerWire:
    """The WebSocket to another process. Implements `fleet.link.Wire`."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse") -> None:
        self._socket = socket
        self._listener: Listener
        self._unsent: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._flow = asyncio.Event()

    @property
    def is_blocked(self) -> bool:
        return self._size > _MAX_UNSENT

    @property
    def is_closed(self) -> bool:
        return self._socket.closed

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def post(self, data: bytes) -> None:
        self._unsent.append(data)
        self._size += len(data)
        self._wake.set()

    async def drain(self) -> None:
        while self.is_blocked and not self.is_closed:
            self._flow.clear()
            await self._flow.wait()

    async def write(self) -> None:
        """Sends what is posted. Raises StreamBrokenError."""
        try:
            while True:
                while self._unsent:
                    data = self._unsent.popleft()
                    await self._socket.send_bytes(data)
                    self._size -= len(data)
                    self._flow.set()
                self._listener.writable()
                self._wake.clear()
                if not self._unsent:
                    await self._wake.wait()
        except (_aiohttp().ClientError, OSError) as error:
            raise StreamBrokenError("The connection to the other process was lost.") from error

    async def read(self) -> None:
        """Passes messages on. Raises StreamBrokenError at the end."""
        async for message in self._socket:
            self._listener.message(message.data if isinstance(message.data, bytes) else b"")
        raise StreamBrokenError("The other process closed the connection.")

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ACCEPT_SECONDS):
                await self._socket.close()


class _Passing(FrameSender):
    """This process's end of a WebSocket from another one: passes its requests to an agent, and the answers back."""

    _wire: WebSocket

    def __init__(self, wire: WebSocket, link: AgentLink) -> None:
        super().__init__(wire, PROTOCOL)
        self._link = link
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._passed: dict[int, _Passed] = {}
        self._bodies: dict[int, tuple[Request, bytearray]] = {}
        """Of requests that have not arrived completely."""

    async def run(self) -> None:
        """Returns at the end of one of the two connections."""
        self._wire.listen(self)
        await self._end

    def forget(self, stream: int) -> None:
        """The request is over."""
        passed = self._passed.pop(stream, None)
        if passed is not None:
            passed.request.close()
        self._wire.pending = len(self._passed)

    def close(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    # Called by the WebSocket.

    def message(self, data: bytes) -> int:
        try:
            frames = read_from_server(data)
        except msgspec.DecodeError:
            self.close()
            return 1
        for frame in frames:
            match frame:
                case Request() if frame.more:
                    self._bodies[frame.stream] = frame, bytearray(frame.body)
                case Request():
                    self._ask(frame, frame.body)
                case Body():
                    self._gather(frame)
                case Credit() if frame.stream in self._passed:
                    self._passed[frame.stream].request.give(frame.bytes)
                case Cancel():
                    self._bodies.pop(frame.stream, None)
                    self.forget(frame.stream)
                case Ping():
                    self.post(Ping())
        return len(frames)

    def writable(self) -> None:
        """What waits is limited by the credit of each request."""

    def closed(self, _: int) -> None:
        for stream in list(self._passed):
            self.forget(stream)
        self.close()

    def _gather(self, frame: Body) -> None:
        request, body = self._bodies.get(frame.stream, (None, bytearray()))
        body += frame.data
        if request is not None and not frame.more:
            del self._bodies[frame.stream]
            self._ask(request, bytes(body))

    def _ask(self, asked: Request, body: bytes) -> None:
        passed = _Passed(self, asked.stream)
        deployment_id, route, window = asked.deployment_id, asked.route, asked.credit
        try:
            passed.request = self._link.ask(
                passed, deployment_id, route, body, timeout=asked.timeout, tenant=asked.tenant, window=window
            )
        except StreamBrokenError:
            self.post(Answer(asked.stream, _MISDIRECTED, "application/json", b"{}", refused=True))
            if self._link.is_over:
                self.close()
            return
        self._passed[asked.stream] = passed
        self._wire.pending = len(self._passed)


class _Passed:
    """A request of another process. Implements `fleet.streams.AnswerSink`."""

    def __init__(self, passing: _Passing, stream: int) -> None:
        self.request: LinkRequest
        self._passing = passing
        self._stream = stream

    def deliver(self, frame: AnswerFrame) -> None:
        self._passing.post(msgspec.structs.replace(frame, stream=self._stream))
        if type(frame) is End or type(frame) is Answer:
            self._passing.forget(self._stream)

    def fail(self, _: Exception) -> None:
        """The agent's connection is over."""
        self._passing.close()


def _ignore(_: object) -> None:
    """A process reports nothing."""


def _aiohttp() -> Any:
    # Imported on first use: it takes a tenth of the startup time, and a single process never forwards.
    return importlib.import_module("aiohttp")
