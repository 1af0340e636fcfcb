"""Reads request bodies from the socket in threads, without the event loop."""

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Final, Protocol

from starlette.requests import ClientDisconnect

from modelshare.server.front.pace import Pace

TAKE_BODY: Final = "modelshare.take_body"
"""ASGI extension: a function that returns the `RequestBody`, or None if it must be read by `receive`."""
LEAST: Final = 256 << 10
"""Minimum size of a body for using a thread."""
_BUFFER: Final = 1 << 20
_PIECE: Final = 8 << 20
"""Bytes that a thread reads between checks for cancellation."""
_PATIENCE_MS: Final = 10
"""How long a thread waits for the client, since switching threads would cost more."""


class Receiver(Protocol):
    """The connection."""

    waking: "asyncio.Future[None] | None"
    """To be resolved when the connection is lost."""

    def begin_body(self) -> None:
        """Sends `100 Continue` if the client waits for it."""
        ...

    def received(self, count: int) -> None:
        """`count` bytes of the body were received."""
        ...

    def end_body(self) -> None:
        """The whole body was received."""
        ...

    def stalled(self) -> None:
        """The body arrives too slowly."""
        ...


class RequestBody:
    """The rest of a request's body. Threads call `take`; the event loop calls everything else, and always `close`."""

    def __init__(
        self, receiver: Receiver, transport: asyncio.Transport, first: bytes, left: int, stalled_seconds: float
    ) -> None:
        """`first` was already read; `left` bytes follow. Nothing else may read from the socket meanwhile."""
        self._receiver = receiver
        self._transport = transport
        # A duplicate: the transport may close its own descriptor at any time.
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        self._in_use = threading.Lock()
        self._is_closing = False
        self._first = first
        self._left = left
        self._stalled_seconds = stalled_seconds
        self._pace = Pace(stalled_seconds)
        self._buffer = memoryview(bytearray(_BUFFER))
        self._moved = self._told = 0
        self._has_begun = self._is_blocked = self._is_lost = False

    async def more(self) -> bool:
        """Waits for more bytes; False at the end. Raises ClientDisconnect."""
        loop = asyncio.get_running_loop()
        if not self._has_begun:
            self._has_begun = True
            self._pace.begin(loop.time(), 0)
            self._receiver.begin_body()
        self._receiver.received(self._moved - self._told)
        self._told = self._moved
        if self._is_lost:
            self._transport.abort()
        if self._transport.is_closing():
            raise ClientDisconnect
        if not self._left and not self._first:
            self._receiver.end_body()
            return False
        if self._is_blocked:
            await self._readable(loop)
        return True

    def take(self, sink: Callable[[memoryview], None]) -> None:
        """Blocks briefly. Passes the bytes received so far to `sink`, in pieces that are valid only during the call."""
        try:
            with self._in_use:
                if not self._is_closing:
                    self._take(sink)
        finally:
            if self._is_closing:
                self.close()

    def close(self) -> None:
        """Closes now, or when no thread uses it any more."""
        self._is_closing = True
        if self._in_use.acquire(blocking=False):
            self._socket.close()
            self._in_use.release()

    def _take(self, sink: Callable[[memoryview], None]) -> None:
        enough = self._moved + _PIECE
        if self._first:
            self._moved += len(self._first)
            sink(memoryview(self._first))
            self._first = b""
        self._is_blocked = False
        while self._left and self._moved < enough and not (self._is_blocked or self._is_lost):
            count = self._fill()
            self._left -= count
            self._moved += count
            if count:
                sink(self._buffer[:count])

    def _fill(self) -> int:
        """Fills the buffer unless the client pauses, and returns the number of bytes."""
        room = select.poll()
        room.register(self._socket, select.POLLIN)
        filled, limit = 0, min(_BUFFER, self._left)
        while filled < limit:
            try:
                count = self._socket.recv_into(self._buffer[filled:limit])
            except BlockingIOError:
                if not room.poll(_PATIENCE_MS):
                    self._is_blocked = True
                    break
            except OSError:
                self._is_lost = True
                break
            else:
                filled += count
                if not count:
                    self._is_lost = True
                    break
        return filled

    async def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        ready = self._receiver.waking = loop.create_future()

        def resolve() -> None:
            if not ready.done():
                ready.set_result(None)

        is_kept = self._pace.is_kept(loop.time(), self._moved, loop.time())
        loop.add_reader(self._socket, resolve)
        try:
            async with asyncio.timeout(self._stalled_seconds if is_kept else 0):
                await ready
        except TimeoutError:
            self._receiver.stalled()
            raise ClientDisconnect from None
        finally:
            loop.remove_reader(self._socket)
            self._receiver.waking = None
        if self._transport.is_closing():
            raise ClientDisconnect
