"""One WebSocket to the server: a bounded send queue, heartbeats, and detection of a dead peer."""

import asyncio
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
    OLDEST_PROTOCOL,
    CloseCode,
    Desired,
    Frame,
    FromServer,
    Ping,
)
from modelshare.wire.link_messages import Outbox, read_from_server
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
        self.process: str | None = None
        """The name of the server's process, once it has accepted the connection; empty if it has none."""
        self.is_leaving = False
        """Whether that process is about to stop."""
        self.desired: Desired | None = None
        """The last one that it sent."""
        self._socket = socket
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._now = asyncio.get_running_loop().time
        self._outbox = Outbox(OLDEST_PROTOCOL)
        self._sending = 0
        """Bytes of the message that is being sent."""
        self._wake = asyncio.Event()
        self._when_space: dict[Callable[[], None], None] = {}
        self._sent_at = self._received_at = self._now()

    def set_protocol(self, protocol: int) -> None:
        """The version that both sides speak; until this is known, the oldest one is spoken."""
        self._outbox.protocol = protocol

    @property
    def busy(self) -> bool:
        """Whether frames are waiting to be sent."""
        return self._outbox.size + self._sending > 0

    @property
    def is_full(self) -> bool:
        """See `streams.Outlet`."""
        return self._outbox.size + self._sending > _QUEUE_BYTES

    def when_space(self, callback: Callable[[], None]) -> None:
        """See `streams.Outlet`."""
        self._when_space[callback] = None

    def post(self, frame: Frame) -> None:
        """Queues a frame."""
        if self._outbox.put(frame) == 1:  # as long as there are others, `write` is awake
            self._wake.set()
        self._sent_at = self._now()

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
                while self._outbox:
                    message = self._outbox.next_message()
                    self._sending = len(message)
                    await self._socket.send_bytes(message)
                    self._sending = 0
                    self._offer_space()
                self._wake.clear()
                await self._wake.wait()

    def _offer_space(self) -> None:
        while self._when_space and not self.is_full:
            callback = next(iter(self._when_space))
            del self._when_space[callback]
            callback()

    async def beat(self) -> None:
        """Sends heartbeats; raises LinkLostError if the server has been silent for too long."""
        while True:
            now = self._now()
            if now >= self._received_at + self._dead_after:
                raise LinkLostError(f"the server was silent for {self._dead_after:g} s")
            if now >= self._sent_at + self._heartbeat:
                self.post(Ping())
            await asyncio.sleep(min(self._received_at + self._dead_after, self._sent_at + self._heartbeat) - now)
