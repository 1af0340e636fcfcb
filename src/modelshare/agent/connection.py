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
    BATCH_PROTOCOL,
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    MAX_BATCH,
    MAX_TEXT,
    OLDEST_PROTOCOL,
    SHARED_FRAMES,
    CloseCode,
    Frame,
    FromServer,
    Ping,
    encode,
)
from modelshare.wire.link_messages import read_from_server
from modelshare.wire.text import plain

_QUEUE_BYTES: Final = 1 << 20
"""Bytes of encoded frames that may be queued; when it is exceeded, chunks wait in their streams."""
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
    """Implements `streams.Outlet`. Only `read` and `write` use the socket."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_AFTER_SECONDS,
    ) -> None:
        self.protocol = OLDEST_PROTOCOL
        """The version that both sides agreed on; until then, the oldest one."""
        self._socket = socket
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._now = asyncio.get_running_loop().time
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._when_space: dict[Callable[[], None], None] = {}
        self._sent_at = self._received_at = self._now()

    @property
    def busy(self) -> bool:
        """Whether frames are waiting to be sent."""
        return self._queued > 0

    @property
    def is_full(self) -> bool:
        """See `streams.Outlet`."""
        return self._queued > _QUEUE_BYTES

    def when_space(self, callback: Callable[[], None]) -> None:
        """See `streams.Outlet`."""
        self._when_space[callback] = None

    def post(self, frame: Frame) -> None:
        """Queues a frame."""
        data = encode(frame)
        self._queue.append(data)
        self._queued += len(data)
        self._sent_at = self._now()
        self._wake.set()

    async def read(self, on_frame: Callable[[FromServer], None]) -> None:
        """Passes every frame to `on_frame`; raises LinkLostError when the connection ends."""
        while True:
            message = await self._socket.receive()
            self._received_at = self._now()
            if message.type is aiohttp.WSMsgType.BINARY:
                try:
                    frames = read_from_server(message.data)
                except msgspec.DecodeError as error:
                    raise BadFrameError(f"the server sent a frame that this agent cannot read ({error})") from error
                for frame in frames:
                    on_frame(frame)
            elif message.type is aiohttp.WSMsgType.TEXT:
                raise BadFrameError("the server sent a text message, which is not a frame")
            elif message.type in _ENDS:
                code = self._socket.close_code
                words = plain(message.extra or "", MAX_TEXT) if message.type is aiohttp.WSMsgType.CLOSE else None
                raise LinkLostError(words or "the connection was cut", code)

    async def write(self) -> None:
        """Sends queued frames until the connection breaks; `read` raises the reason.

        Frames that were queued in the same round of the event loop share messages.
        """
        with suppress(aiohttp.ClientError, ConnectionError):
            while True:
                while self._queue:
                    frames = self._next_message()
                    await self._socket.send_bytes(
                        frames[0] if len(frames) == 1 else encode([msgspec.Raw(frame) for frame in frames])
                    )
                    self._queued -= sum(map(len, frames))
                    self._offer_space()
                self._wake.clear()
                await self._wake.wait()

    def _offer_space(self) -> None:
        while self._when_space and not self.is_full:
            callback = next(iter(self._when_space))
            del self._when_space[callback]
            callback()

    def _next_message(self) -> list[bytes]:
        """Takes encoded frames from the queue: as many as one message may have."""
        queue, frames = self._queue, [self._queue.popleft()]
        limit = SHARED_FRAMES if self.protocol >= BATCH_PROTOCOL else 1
        left = MAX_BATCH - len(frames[0])
        while queue and len(frames) < limit and len(queue[0]) <= left:
            left -= len(queue[0])
            frames.append(queue.popleft())
        return frames

    async def beat(self) -> None:
        """Sends heartbeats; raises LinkLostError if the server has been silent for too long."""
        while True:
            now = self._now()
            if now >= self._received_at + self._dead_after:
                raise LinkLostError(f"the server was silent for {self._dead_after:g} s")
            if now >= self._sent_at + self._heartbeat:
                self.post(Ping())
            await asyncio.sleep(min(self._received_at + self._dead_after, self._sent_at + self._heartbeat) - now)
