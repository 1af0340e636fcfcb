"""A WebSocket (RFC 6455) between the connection and the application (ASGI 2.3), without compression.

After the handshake the application may take the WebSocket over (`scope["extensions"][MESSAGES]`): then messages are
handled in the callback that reads the socket. Ordinary messages, one masked binary frame each, are read and written
here; all others by the library.
"""

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from starlette.types import Message
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Codec
from websockets.protocol import Side
from websockets.utils import accept_key

from modelshare.server.errors import ApiError, PermissionDeniedError
from modelshare.server.front import refusals
from modelshare.server.ratelimit import Bucket
from modelshare.wire.link import MAX_DESIRED, MAX_FRAME

try:
    from websockets.speedups import apply_mask
except ImportError:  # it is not built for every platform
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from modelshare.server.front.server import Front

log = structlog.get_logger()

MESSAGES: Final = "modelshare.messages"
"""Key of this object in the scope's extensions."""
_MAX_UNREAD: Final = 2 * MAX_FRAME
"""Bytes of messages that are buffered before reading from the peer pauses."""
_COST: Final = 512
"""Estimated overhead of a buffered message in bytes."""
CLOSE_SECONDS: Final = 2.0
"""Time limit for the peer to answer a close frame and to receive pending data."""
_GOING_AWAY: Final = 1001
_MAX_REASON: Final = 123
"""Maximum bytes of the reason in a close frame."""
_MAX_UNWRITTEN: Final = MAX_DESIRED + 2 * MAX_FRAME
"""Bytes; more than the application ever buffers. Reached by a peer that pings without reading the pongs."""
_FRAMES: Final = 20_000
"""Frames per second and peer; further ones wait. Even the smallest frame takes processor time."""
_PARTS: Final = 4
"""Frames within a message that count as one more."""
_BURST: Final = 500
"""Frames that are handled at once, before other connections get their turn."""
_HEADER: Final = 14
"""Maximum bytes of a frame's header with its mask."""
_WHOLE, _MASKED = 0x82, 0x80
"""First byte of a binary message in one frame; the bit in the second byte that says that it is masked."""
_LENGTH_16, _LENGTH_64 = 126, 127
"""Lengths that stand for a longer field."""
_LONGEST_CONTROL: Final = 125


class Listener(Protocol):
    """Whoever takes a WebSocket over."""

    def message(self, data: bytes) -> int:
        """Takes a message; returns how many parts it had."""
        ...

    def writable(self) -> None:
        """The peer reads again."""
        ...

    def closed(self, code: int) -> None:
        """There will be no further message."""
        ...


class WebSocket(asyncio.Protocol):
    """Takes over from `Connection` after the headers of the handshake."""

    def __init__(self, front: "Front", transport: asyncio.Transport, scope: dict[str, Any]) -> None:
        self.deadline = float("inf")
        """When `overdue` is to be called, in the loop's time."""
        self._front = front
        self._transport = transport
        self._headers = dict(scope["headers"])
        self._scope = scope | {
            "type": "websocket",
            "scheme": "ws",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}, MESSAGES: self},
        }
        # More than a frame may have, so that the application rejects it with its own message.
        self._socket = Codec(Side.SERVER, max_size=2 * MAX_FRAME)
        self._messages: deque[Message] = deque([{"type": "websocket.connect"}])
        self._news = asyncio.Event()
        self._news.set()
        self._unread = 0
        self._is_reading = True
        self._unparsed = bytearray()
        self._turn: asyncio.TimerHandle | None = None
        """The next run of the parser, while the rate limit delays it."""
        self._pace = Bucket(60 * _FRAMES, _BURST, _BURST, front.loop.time())
        self._message = bytearray()
        """The received part of a message in several frames."""
        self._is_text = self._in_fragments = False
        self._listener: Listener | None = None
        self.pending = 0
        """Answers in progress for which a stop waits; the listener sets it."""
        self._flow = asyncio.Event()
        self._flow.set()
        self._is_accepted = self._is_over = False
        self._denial: tuple[bytes, list[tuple[bytes, bytes]]] | None = None
        front.run(self)

    # Called by the transport.

    def connection_lost(self, _: Exception | None) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._end(1006)
        self.deadline = float("inf")
        self._flow.set()
        self._front.closed(self)

    def eof_received(self) -> None:
        """asyncio closes the other half."""

    def pause_writing(self) -> None:
        self._flow.clear()

    def resume_writing(self) -> None:
        self._flow.set()
        if self._listener is not None:
            self._listener.writable()

    def data_received(self, data: bytes) -> None:
        self._unparsed += data
        if self._turn is None:
            self._parse()

    def _parse(self) -> None:
        self._turn = None
        self._pace.refill(self._front.loop.time())
        while self._unparsed and self._pace.level > 0:
            size, start = _frame_size(self._unparsed)
            if size > len(self._unparsed) and start + 2 * MAX_FRAME >= size:
                break  # the rest is still to come
            frame = bytes(self._unparsed[:size])
            del self._unparsed[:size]
            self._pace.level -= self._parse_frame(frame, start, is_too_long=size - start > 2 * MAX_FRAME)
            if self._transport.is_closing():
                self._unparsed.clear()
        if self._pace.level <= 0:
            self._turn = self._front.loop.call_later((_BURST - self._pace.level) / _FRAMES, self._parse)
        self._read_or_wait()

    def _parse_frame(self, frame: bytes, start: int, *, is_too_long: bool) -> int:
        """Returns how many frames it counts as. `start`: of the payload."""
        is_ordinary = frame[0] == _WHOLE and frame[1] & _MASKED and not is_too_long
        if is_ordinary and not self._in_fragments and not self._is_over:
            return self._receive(apply_mask(frame[start:], frame[start - 4 : start]), is_text=False)
        self._socket.receive_data(frame)
        count = 1
        for event in self._socket.events_received():
            if isinstance(event, Frame):
                count += self._take(event)
        self._flush()
        if self._socket.close_rcvd is not None:
            self._end(self._socket.close_rcvd.code)
            self._transport.close()
        elif self._socket.parser_exc is not None and not self._is_over:
            self._end(self._socket.close_sent.code if self._socket.close_sent else 1006)
            self._transport.write_eof()  # and reads on: closing now could lose the peer our reason
        return count

    def _read_or_wait(self) -> None:
        """Pauses or resumes reading from the peer."""
        limit = _MAX_UNREAD if self._is_reading else _MAX_UNREAD // 2
        is_welcome = self._turn is None and (self._unread <= limit or self._is_over)
        if is_welcome != self._is_reading and not self._transport.is_closing():
            self._is_reading = is_welcome
            (self._transport.resume_reading if is_welcome else self._transport.pause_reading)()

    def _take(self, frame: Frame) -> int:
        """Returns what its message counts as, beyond itself."""
        if frame.opcode not in {Opcode.BINARY, Opcode.TEXT, Opcode.CONT} or self._is_over:
            return 0
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._message += frame.data
        self._in_fragments = not frame.fin
        if not frame.fin:
            return 0
        data, self._message = bytes(self._message), bytearray()
        return self._receive(data, is_text=self._is_text) - 1

    def _receive(self, data: bytes, *, is_text: bool) -> int:
        """Takes a message; returns how many frames it counts as."""
        if self._listener is not None:
            return 1 + self._listener.message(b"" if is_text else data) // _PARTS
        self._unread += len(data) + _COST
        self._messages.append(
            {"type": "websocket.receive", "text": data.decode(errors="replace")}
            if is_text
            else {"type": "websocket.receive", "bytes": data}
        )
        self._news.set()
        return 1

    # Called by the application that has taken over.

    @property
    def is_blocked(self) -> bool:
        """Whether the peer reads too slowly, so that large messages should wait."""
        return not self._flow.is_set()

    @property
    def is_closed(self) -> bool:
        return self._is_over or self._transport.is_closing()

    def listen(self, listener: Listener) -> None:
        """Passes all messages to the listener from now on, and those that are waiting at once."""
        self._listener = listener
        while self._messages:
            message = self._messages.popleft()
            if message["type"] == "websocket.receive":
                listener.message(message.get("bytes") or b"")
            elif message["type"] == "websocket.disconnect":
                listener.closed(message["code"])
        self._unread = 0
        self._read_or_wait()

    def post(self, data: bytes) -> None:
        """Sends a binary message without waiting. Does nothing once the connection is closed."""
        if not self.is_closed:
            self._transport.write(_header(len(data)) + data)
            self._check_unwritten()

    async def drain(self) -> None:
        """Waits until the peer has read enough, or is gone."""
        await self._flow.wait()

    # Called by the server.

    def is_busy(self, _: float) -> bool:
        return self.pending > 0

    def end(self) -> None:
        """Closes the connection, since the process stops."""
        if self._is_accepted and not self._is_over:
            self._close(_GOING_AWAY, "The server is restarting.")
        elif not self._is_over:
            self._deny(refusals.stopping())

    def abort(self) -> None:
        self._transport.abort()

    def overdue(self, _: float) -> None:
        self._transport.abort()

    async def run(self, app: Any) -> None:
        """Runs the application."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            if not self._is_over:
                log.error("websocket failed", path=self._scope["path"], exc_info=error)  # noqa: TRY400 - with more to say
        finally:
            if not self._is_accepted and not self._is_over:
                self._deny(refusals.unexpected())
            elif not self._is_over:
                self._close(1011, "")

    # ASGI

    async def receive(self) -> Message:
        while not self._messages:
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        if message["type"] == "websocket.receive":
            self._unread -= len(message.get("bytes") or message.get("text") or "") + _COST
            self._read_or_wait()
        return message

    async def send(self, message: Message) -> None:
        """Raises OSError if the peer has disconnected."""
        while not self._flow.is_set():  # the first waiter may fill the buffer again
            await self._flow.wait()
        if self._is_over or self._transport.is_closing():
            raise ConnectionResetError("The WebSocket is closed.")
        kind = message["type"]
        if kind == "websocket.send":
            if (data := message.get("bytes")) is not None:
                self.post(data)
            else:
                self._socket.send_text(message["text"].encode())
                self._flush()
        elif kind == "websocket.accept":
            self._accept()
        elif kind == "websocket.close":
            if self._is_accepted:
                self._close(message.get("code", 1000), message.get("reason") or "")
            else:
                self._deny(PermissionDeniedError("This token is unknown. Connect with a valid one."))
        elif kind == "websocket.http.response.start":
            self._denial = refusals.status_line(message["status"]), list(message.get("headers", []))
        elif kind == "websocket.http.response.body":
            self._deny_with(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"`{kind}` is not a message of a WebSocket.")

    def _accept(self) -> None:
        self._is_accepted = True
        key = accept_key(self._headers[b"sec-websocket-key"].decode("latin-1"))
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: " + key.encode() + b"\r\n\r\n"
        )
        self._flush()

    def _deny(self, error: ApiError) -> None:
        self._transport.write(refusals.answer(error, self._front.date()))
        self._end(1006)
        self._transport.close()

    def _deny_with(self, data: bytes, *, more: bool) -> None:
        assert self._denial is not None  # noqa: S101 - the headers come first
        self._message += data
        if more:
            return
        line, headers = self._denial
        own = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        known = [(b"date", self._front.date()), (b"content-length", b"%d" % len(self._message))]
        lines = [b"%b: %b\r\n" % each for each in (*known, *own)]
        self._transport.write(b"".join((line, *lines, b"connection: close\r\n\r\n", self._message)))
        self._end(1006)
        self._transport.close()

    def _close(self, code: int, reason: str) -> None:
        """Sends a close frame, and waits a moment for that of the peer."""
        with contextlib.suppress(InvalidState):  # the peer was first
            self._socket.send_close(code, reason.encode()[:_MAX_REASON].decode(errors="ignore"))
        self._flush()
        self._end(code)

    def _end(self, code: int) -> None:
        """Ends the exchange of messages. The connection stays open for a moment, for the close frames."""
        if not self._is_over:
            self._is_over = True
            self.deadline = self._front.loop.time() + CLOSE_SECONDS
            self._read_or_wait()
            if self._listener is not None:
                self._listener.closed(code)
            self._messages.append({"type": "websocket.disconnect", "code": code})
            self._news.set()

    def _flush(self) -> None:
        if not self._is_accepted:
            return
        if data := b"".join(self._socket.data_to_send()):
            self._transport.write(data)
        self._check_unwritten()

    def _check_unwritten(self) -> None:
        if self._transport.get_write_buffer_size() > _MAX_UNWRITTEN:
            self._transport.abort()


def _frame_size(data: bytearray) -> tuple[int, int]:
    """The size of the frame that begins there, and where its payload does; more than there is if that is unknown.

    Everything there is counts as the frame if its header is invalid: then the library refuses it at once.
    """
    if len(data) < 2:  # noqa: PLR2004 - the shortest header
        return _HEADER, _HEADER
    length, start = data[1] & 0x7F, 2
    is_long_control = data[0] & 0x08 and length > _LONGEST_CONTROL
    if data[0] & 0x70 or not data[1] & _MASKED or is_long_control:
        return len(data), start
    if length == _LENGTH_16:
        length, start = int.from_bytes(data[2:4]), 4
    elif length == _LENGTH_64:
        length, start = int.from_bytes(data[2:10]), 10
    start += 4
    return (start + length, start) if len(data) >= start else (_HEADER, _HEADER)


def _header(length: int) -> bytes:
    """The header of a binary message from the server."""
    if length < _LENGTH_16:
        return bytes((_WHOLE, length))
    if length < 1 << 16:
        return b"%c%c%b" % (_WHOLE, _LENGTH_16, length.to_bytes(2))
    return b"%c%c%b" % (_WHOLE, _LENGTH_64, length.to_bytes(8))
