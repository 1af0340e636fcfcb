"""One WebSocket to the server: a bounded send queue, heartbeats, and detection of a dead peer."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import aiohttp
import msgspec

from modelshare.agent.errors import AgentError
from modelshare.wire.link import (
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    MAX_TEXT,
    CloseCode,
    Frame,
    FromServer,
    Ping,
    decode_from_server,
    encode,
)
from modelshare.wire.text import plain

_QUEUE_BYTES: Final = 1 << 20
"""Bytes of encoded frames that may be queued; when it is exceeded, streams wait."""
_ENDS: Final = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}


class LinkLostError(AgentError):
    """The connection ended; the agent may reconnect."""

    def __init__(self, reason: str, close_code: int | None = None, *, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = close_code
        self.is_refusal = is_refusal or close_code == CloseCode.REMOVED
        """The peer rejected the agent. It may have been anyone, such as a proxy, so this is not final."""


class BadFrameError(LinkLostError):
    """The server violated the protocol."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, CloseCode.PROTOCOL)


class Connection:
    """Only `read` and `write` use the socket: a cancelled stream cannot leave a partial frame or block the queue."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_AFTER_SECONDS,
    ) -> None:
        self._socket = socket
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._now = asyncio.get_running_loop().time
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._spoke = self._heard = self._now()

    @property
    def busy(self) -> bool:
        """Whether frames are waiting to be sent."""
        return self._queued > 0

    def post(self, frame: Frame) -> None:
        """Queues a small frame without waiting."""
        data = encode(frame)
        self._queue.append(data)
        self._queued += len(data)
        self._spoke = self._now()
        self._wake.set()
        if self._queued > _QUEUE_BYTES:
            self._room.clear()

    async def send(self, frame: Frame) -> None:
        """Queues a frame with payload, after waiting for space in the queue."""
        while self._queued > _QUEUE_BYTES:
            await self._room.wait()
        self.post(frame)

    async def read(self, on_frame: Callable[[FromServer], None]) -> None:
        """Passes every frame to `on_frame`; raises LinkLostError when the connection ends."""
        while True:
            message = await self._socket.receive()
            self._heard = self._now()
            if message.type is aiohttp.WSMsgType.BINARY:
                try:
                    frame = decode_from_server(message.data)
                except msgspec.DecodeError as error:
                    raise BadFrameError(f"the server sent a frame that this agent cannot read ({error})") from error
                on_frame(frame)
            elif message.type is aiohttp.WSMsgType.TEXT:
                raise BadFrameError("the server sent a text message, which is not a frame")
            elif message.type in _ENDS:
                code = self._socket.close_code
                words = plain(message.extra or "", MAX_TEXT) if message.type is aiohttp.WSMsgType.CLOSE else None
                raise LinkLostError(words or "the connection was cut", code)

    async def write(self) -> None:
        """Sends queued frames until the connection breaks; `read` raises the reason."""
        with suppress(aiohttp.ClientError, ConnectionError):
            while True:
                while self._queue:
                    data = self._queue.popleft()
                    await self._socket.send_bytes(data)
                    self._queued -= len(data)
                    if self._queued <= _QUEUE_BYTES:
                        self._room.set()
                self._wake.clear()
                await self._wake.wait()

    async def beat(self) -> None:
        """Sends heartbeats; raises LinkLostError if the server has been silent for too long."""
        while True:
            now = self._now()
            if now >= self._heard + self._dead_after:
                raise LinkLostError(f"the server was silent for {self._dead_after:g} s")
            if now >= self._spoke + self._heartbeat:
                self.post(Ping())
            await asyncio.sleep(min(self._heard + self._dead_after, self._spoke + self._heartbeat) - now)
