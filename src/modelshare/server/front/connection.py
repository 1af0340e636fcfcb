"""One client's connection: HTTP/1.1 as llhttp reads it, until a WebSocket takes over.

It is always in one phase. While it waits for the client there is a deadline, against silence, slow heads, stalled
bodies and answers that are not read.
"""

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from modelshare.server.addresses import counted_as
from modelshare.server.errors import ApiError
from modelshare.server.front import refusals, request, sending
from modelshare.server.front.exchange import Exchange
from modelshare.server.front.overdue import NEVER, Overdue
from modelshare.server.front.pace import ConnectionPhase, Doubt, Pace
from modelshare.server.front.parsing import Head, Parser
from modelshare.server.front.receiving import RequestBody
from modelshare.server.front.room import Seat
from modelshare.server.front.websocket import WebSocket
from modelshare.server.proven import PROVEN

if TYPE_CHECKING:
    from modelshare.server.front.server import Front

_MAX_PIPELINED: Final = 32
_LINGER_SECONDS: Final = 10.0
_LINGER_BYTES: Final = 256 << 20
"""Bytes read and discarded after an early answer, which a reset, due to unread bytes, would keep from the client."""
_BODY_SECONDS: Final = 2.0
"""How long a stop waits for more of a request's body."""


class Connection(Overdue, asyncio.Protocol):
    """A connection from its first byte to its last, unless a WebSocket takes over."""

    def __init__(self, front: "Front") -> None:
        self.deadline = NEVER
        """When `overdue` should be called, in the loop's time."""
        self._front = front
        self.date = front.date
        self._limits = front.limits
        self._now = front.loop.time
        self._transport: asyncio.Transport
        self._parser = Parser(self)
        self._phase = ConnectionPhase.HEAD
        self._turned: ConnectionPhase | None = None
        self._client = self._server = ("", 0)
        self._is_proxy = False
        self._seat = Seat(front.room, self)
        self._exchange: Exchange | None = None
        """The exchange that is being answered."""
        self._pipeline: deque[Exchange] = deque()
        self._refusal: ApiError | None = None
        """Sent after pending answers."""
        self._is_draining = False
        """Whether the next request waits until the client has read the answer before."""
        self._is_new = False
        """Whether the application does not know the exchange yet."""
        self._upgrade: dict[str, Any] | None = None
        self._is_over = False
        """Whether further input is ignored."""
        self._doubt = Doubt()
        """For a client that has closed its half."""
        self._ahead = 0
        """Bytes of the next answer that were sent as a probe."""
        self._is_reading, self.is_blocked = True, False
        self.waking: asyncio.Future[None] | None = None
        self._flow = asyncio.Event()
        """Clear while the client reads too slowly."""
        self._flow.set()
        self._pace = Pace(front.limits.stalled_seconds)
        self._heard = 0.0
        self._received = self._sent_of_files = 0
        self._answered_at = self._now()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self._client = host.removeprefix("::ffff:") if "." in host else host, port
        self._server = (transport.get_extra_info("sockname") or ("", 0))[:2]
        self._is_proxy = self._client[0] in self._front.trusted_proxies
        self._seat.address = None if self._is_proxy else counted_as(self._client[0])
        self._turn()
        self._front.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._phase = ConnectionPhase.CLOSING
        self._seat.close()
        self.deadline = NEVER
        self._parser.close()
        for exchange in (self._exchange, *self._pipeline):
            if exchange is not None:
                exchange.leave()
        self._flow.set()
        if self.waking is not None and not self.waking.done():
            self.waking.set_result(None)
        self._front.closed(self)

    def eof_received(self) -> bool:
        """Returns True to keep the other half open.

        Some clients close their half after the last request, and wait for the answer. A client that has disconnected
        looks the same, but resets the connection when something is sent. Closing during a stream counts as
        disconnecting.
        """
        last = self._pipeline[-1] if self._pipeline else self._exchange
        if last is None or not last.complete or last.is_open_ended:
            return False
        self._is_over = True
        self._doubt.begin(self._now())
        self._turn()
        return True

    def data_received(self, data: bytes) -> None:
        self._heard = self._now()
        if self._is_over:
            self._received += len(data)
            if self._received > _LINGER_BYTES:
                self._transport.abort()
            return
        rest = None
        try:
            rest = self._parser.feed(data)
        except ApiError as error:
            if not self._is_over:  # else it is behind the last request
                self._refusal = self._refusal or error
        if rest is not None and self._upgrade is not None:
            self._become_websocket(self._upgrade, rest)
            return
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif self._phase is not self._turned:
            self._turn()
        self._pass_on()

    def pause_writing(self) -> None:
        self._flow.clear()
        self.block(is_blocked=True)

    def resume_writing(self) -> None:
        self._flow.set()
        self.block(is_blocked=False)
        if self._is_draining:
            self._is_draining = False
            self._go_on()
        elif self._exchange is not None and self._exchange.handler is not None:
            self._exchange.flush()
            self._exchange.handler.writable()

    # Called by the parser, within `data_received`.

    def head_begins(self) -> None:
        if self._phase is ConnectionPhase.IDLE:
            self._phase = ConnectionPhase.HEAD

    def head(self, head: Head) -> bool:
        if self._refusal is None and not self._is_over:
            try:
                scope = request.read(head.version, head.method, head.target, head.headers)
                scope["client"], scope["server"] = self._client, self._server
                if self._is_proxy or not self._seat.is_known:
                    scope[PROVEN] = self._proven
                return self._begin(head, scope)
            except ApiError as refusal:
                self._refusal = refusal
        return head.is_upgrade  # never parsed again

    def _begin(self, head: Head, scope: dict[str, Any]) -> bool:
        """As `head`. Raises ApiError for what cannot be begun here."""
        if self._is_proxy:
            self._seat.address = counted_as(request.forwarded_for(head.headers)) or None
        if head.is_upgrade:
            if not request.asks_for_link(scope):
                return False
            if self._exchange is not None:
                raise refusals.malformed("a WebSocket cannot start while a request is in progress")
            self._upgrade = scope
            return True
        if len(self._pipeline) >= _MAX_PIPELINED:
            raise refusals.malformed("too many pipelined requests")
        is_newer = head.version == "1.1"
        keep_alive, expects = head.keep_alive and not self._front.is_leaving, request.expects(head.headers)
        self._pipeline.append(Exchange(self, scope, keep_alive=is_newer and keep_alive, expects=is_newer and expects))
        if self._exchange is None and not self._is_draining:
            self._next()
        else:
            self._pause_reading()
        return False

    def body(self, data: bytes) -> None:
        self._received += len(data)
        exchange = self._coming
        if exchange is not None and exchange.feed(data):
            self._pause_reading()

    def request_ends(self) -> None:
        exchange = self._coming
        if exchange is None:
            return
        exchange.end_of_request()
        self._is_over = not exchange.keep_alive
        if exchange is self._exchange:
            self._phase = ConnectionPhase.WORK

    @property
    def _coming(self) -> Exchange | None:
        """The one whose request is being read."""
        if self._refusal is not None or self._upgrade is not None or self._is_over:
            return None
        return self._pipeline[-1] if self._pipeline else self._exchange

    # Called by the exchange.

    def write(self, data: bytes) -> None:
        self._transport.write(data[self._ahead :] if self._ahead else data)
        self._ahead = 0

    async def drain(self) -> None:
        await self._flow.wait()

    async def send_file(self, file: int, size: int) -> int:
        self._transport.set_write_buffer_limits(0)
        await self.drain()
        try:
            return await sending.send_file(self, self._transport, file, size)
        finally:
            self._transport.set_write_buffer_limits()

    def sent(self, count: int) -> None:
        """Bytes of a file were sent."""
        self._sent_of_files += count

    def block(self, *, is_blocked: bool) -> None:
        """Whether the client's receive window is full."""
        self.is_blocked = is_blocked
        if self._phase is ConnectionPhase.WORK:
            self._turn()

    def read_on(self) -> None:
        if not self._is_reading and not self._pipeline:
            self._is_reading = True
            self._transport.resume_reading()
            self._turn()

    def take_body(self, first: bytes, left: int) -> RequestBody | None:
        if self._pipeline or self._is_over or self._refusal is not None or self._transport.is_closing():
            return None
        self._pause_reading()
        return RequestBody(self, self._transport, first, left, self._limits.stalled_seconds)

    def begin_body(self) -> None:
        if self._exchange is not None:
            self._exchange.go_on()

    def received(self, count: int) -> None:
        """Bytes of a body were received by a thread."""
        self._received += count
        self._heard = self._now()

    def end_body(self) -> None:
        self._parser.close()
        self._parser = Parser(self)  # the other one still waits for this body
        self.request_ends()
        self._turn()
        self.read_on()

    def stalled(self) -> None:
        self._refuse(refusals.body_too_slow(self._limits.stalled_seconds))

    def answered(self) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None  # noqa: S101 - it is the one that calls
        if self._is_proxy:  # the next request may be from another client
            self._seat.is_known, self._seat.address = False, None
        is_last = self._doubt.is_there and not self._pipeline and self._refusal is None
        self._answered_at = self._now()
        if not exchange.keep_alive or is_last or (self._front.is_stopping and not self._front.is_leaving):
            self._close(lingers=not exchange.complete)
        elif self.is_blocked:
            self._is_draining = True
            self._turn()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Turns to the next request."""
        if self._pipeline:
            self._next()
            self._turn()
            self.read_on()
            self._front.loop.call_soon(self._pass_on)
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            self._phase = ConnectionPhase.HEAD if self._parser.is_in_head else ConnectionPhase.IDLE
            self._turn()
            self.read_on()

    def failed(self) -> None:
        assert self._exchange is not None  # noqa: S101 - it is the one that calls
        if self._exchange.started:
            self._transport.abort()
        else:
            self._answer(refusals.stopping() if self._front.is_stopping else refusals.unexpected())

    # Called by the server.

    def abort(self) -> None:
        self._transport.abort()

    def refuse(self, error: ApiError) -> None:
        """Closes the connection at once, with an error if the client has sent something."""
        says = self._phase is ConnectionPhase.BODY or self._parser.is_in_head
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.leave()
            says = says and not exchange.started
        self._phase, self._is_over, self.deadline = ConnectionPhase.CLOSING, True, NEVER
        self._seat.leave()
        self._front.closed(self)
        if says:
            self.write(refusals.answer(error, self.date()))
            self._transport.close()
            self._front.loop.call_later(1, self._transport.abort)
        else:
            self._transport.abort()

    # Turns.

    def _next(self) -> None:
        """Begins with the next request. It is passed to the application once everything that was received is parsed."""
        exchange = self._exchange = self._pipeline.popleft()
        self._phase = ConnectionPhase.WORK if exchange.complete else ConnectionPhase.BODY
        self._is_new = True

    def _pass_on(self) -> None:
        """Passes a new request to the application, or the news to the handler of one."""
        exchange = self._exchange
        if exchange is None or exchange.gone:
            return
        if self._is_new:
            self._is_new = False
            self._front.run(exchange)
        elif exchange.handler is not None:
            exchange.handler.arrived()

    def _become_websocket(self, scope: dict[str, Any], rest: bytes) -> None:
        self._seat.leave()
        self.deadline = NEVER
        self._transport.set_protocol(link := WebSocket(self._front, self._transport, scope))
        self._front.became(self, link)
        if rest:
            link.data_received(rest)

    def _refuse(self, error: ApiError) -> None:
        """Sends the last answer, after pending ones."""
        self._is_over = True
        exchange = self._exchange
        if exchange is not None and exchange.complete:
            self._refusal = error
        elif exchange is not None and exchange.started:
            self._transport.abort()
        else:
            self._answer(error)

    def _answer(self, error: ApiError) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.leave()
        self.write(refusals.answer(error, self.date()))
        self._close(lingers=exchange is None or not exchange.complete)

    def _close(self, *, lingers: bool) -> None:
        """Closes once everything is sent. `lingers`: the client may still be sending."""
        self._phase, self._is_over, self._received = ConnectionPhase.CLOSING, True, 0
        self._turn()
        self.deadline = self._now() + (_LINGER_SECONDS if lingers else self._limits.stalled_seconds)
        self._pace.begin(self._now(), self._taken())
        if not lingers:
            self._transport.close()
            return
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        with contextlib.suppress(OSError):  # the client has reset the connection
            self._transport.write_eof()
