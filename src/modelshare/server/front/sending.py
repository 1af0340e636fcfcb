"""Sends files by `sendfile`, without copying their bytes through Python."""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
from typing import Final, Protocol

_PIECE: Final = 32 << 20
"""Bytes that a thread sends between checks for cancellation."""
_PATIENCE_MS: Final = 10
"""How long a thread waits for the client, since switching threads would cost more."""
_CLOSED: Final = getattr(select, "POLLRDHUP", 0)
"""Linux only. That a connection was reset is always told."""


class Sender(Protocol):
    """The connection."""

    waking: "asyncio.Future[None] | None"
    """To be resolved when the connection is lost."""

    def sent(self, count: int) -> None:
        """`count` bytes were sent."""
        ...

    def block(self, *, is_blocked: bool) -> None:
        """The client's receive window is full, or no longer."""
        ...


async def send_file(sender: Sender, transport: asyncio.Transport, file: int, size: int) -> int:
    """Sends the first `size` bytes of the open file, closes it, and returns how many bytes were sent.

    Threads do it, since reading from a disk blocks; no thread waits for a slow client. Nothing else may be written
    meanwhile.
    """
    loop = asyncio.get_running_loop()
    offset = 0
    if transport.is_closing():
        os.close(file)
        return 0
    # A duplicate: the transport may close its own descriptor at any time.
    out = os.dup(transport.get_extra_info("socket").fileno())
    piece: asyncio.Future[tuple[int, bool]] = loop.create_future()
    piece.cancel()
    try:
        while offset < size and not transport.is_closing():
            piece = loop.run_in_executor(None, _send, out, file, offset, min(_PIECE, size - offset))
            count, is_full = await asyncio.shield(piece)
            sender.sent(count)
            offset += count
            if is_full:
                await _writable(sender, out)
            elif count == 0:
                break
    finally:  # a thread may still use them
        piece.add_done_callback(lambda _: os.close(out))
        piece.add_done_callback(lambda _: os.close(file))
    return offset


async def _writable(sender: Sender, out: int) -> None:
    loop = asyncio.get_running_loop()
    ready = sender.waking = loop.create_future()

    def resolve() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(out, resolve)
    sender.block(is_blocked=True)
    try:
        await ready
    finally:
        loop.remove_writer(out)
        sender.waking = None
        sender.block(is_blocked=False)


def pending(transport: asyncio.Transport) -> int:
    """Bytes that the client has not received yet, including those in the operating system's buffer."""
    unacknowledged = 0
    with contextlib.suppress(OSError, ValueError):  # the socket is gone, or the system does not tell
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
        (unacknowledged,) = struct.unpack("i", answer)
    return transport.get_write_buffer_size() + unacknowledged


def is_reset(transport: asyncio.Transport) -> bool:
    """Whether the client has reset the connection, which goes unnoticed while nothing is read from it."""
    return bool(transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))


def has_closed(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its half, or reset the connection, while nothing is read from it."""
    if transport.is_closing():
        return False
    closed = select.poll()
    closed.register(transport.get_extra_info("socket").fileno(), _CLOSED)
    return bool(closed.poll(0))


def _send(out: int, file: int, offset: int, size: int) -> tuple[int, bool]:
    """How many bytes were sent, and whether the socket's buffer is full."""
    room = select.poll()
    room.register(out, select.POLLOUT)
    sent = 0
    try:
        while sent < size:
            try:
                count = os.sendfile(out, file, offset + sent, size - sent)
            except BlockingIOError:
                if not room.poll(_PATIENCE_MS):
                    return sent, True
            else:
                sent += count
                if count == 0:
                    break
    except OSError:  # the client has disconnected, which the transport also notices
        pass
    return sent, False
