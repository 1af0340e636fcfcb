"""One agent's connection: requests over a WebSocket, with credit, cancellation and heartbeats. No database here.

Frames are handled in the callback that reads the socket, without tasks or queues. Frames to the agent are gathered
until the end of the event loop's round, and sent in one message if the agent understands that.

Whatever an agent sends, at most `LINK_CREDIT + MAX_STREAMS * SMALL_CREDIT` bytes of answers (96 MiB) are kept, plus one
message that is being read, and a `Head` and an `End` per stream. All other frames are rate-limited.
"""

import asyncio
import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import structlog
from msgspec import DecodeError

from modelshare.server.fleet.streams import AnswerSink, ClosedError, EngineLoads, LinkRequest, Stream, StreamBrokenError
from modelshare.server.front.websocket import Listener
from modelshare.server.ratelimit import Bucket
from modelshare.wire.link import (
    BODY_SLICE,
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    INITIAL_CREDIT,
    MAX_FRAME,
    MAX_STREAMS,
    Answer,
    AnswerFrame,
    Body,
    Cancel,
    Chunk,
    CloseCode,
    End,
    Frame,
    FromAgent,
    FromServer,
    Head,
    Ping,
    Released,
    Report,
    Request,
    UnknownFrame,
    decode_from_agent,
    encode,
)
from modelshare.wire.link_messages import BATCH_FRAMES, Outbox, read_from_agent

log = structlog.get_logger()
LINK_CREDIT: Final = 32 << 20
"""Bytes that all streams together may have in transit or waiting; beyond it each stream has `SMALL_CREDIT`."""
SMALL_CREDIT: Final = 16 << 10
BROKEN_CODES: Final = frozenset({1002, 1007, 1009})
"""Close codes for a peer that broke the WebSocket protocol or sent too much at once (RFC 6455 section 7.4.1)."""
_CUT: Final = 1006
"""Close code for a connection that ended without a close frame."""
_HEAD_AND_END: Final = 4096
"""Maximum bytes of a `Head` and an `End` together."""
_LATE: Final = 1 << 20
"""Bytes accepted for streams that have ended, beyond what was in transit when they were cancelled."""
_OF_ANSWERS: Final = (Chunk, Answer, Head, End)
_CONTROL_BURST: Final = 1000
_CONTROL_PER_MINUTE: Final = 1200
"""Limits `Report`, `Released`, `Ping`, and frames of unknown kinds. Two models are pulled at a time, and each may
report twice a second."""


class Wire(Protocol):
    """A WebSocket, as a link uses it."""

    @property
    def is_blocked(self) -> bool:
        """Whether the peer reads too slowly, so that large messages should wait."""
        ...

    @property
    def is_closed(self) -> bool: ...
    def listen(self, listener: Listener) -> None:
        """Passes all messages to the listener from now on, and those that are waiting at once."""
        ...

    def post(self, data: bytes) -> None:
        """Sends a message without waiting. Does nothing once the connection is closed."""
        ...

    async def drain(self) -> None:
        """Waits until the peer has read enough, or is gone."""
        ...


class FrameSender:
    """Gathers frames until the end of the event loop's round, so that they are sent in few messages."""

    def __init__(self, wire: Wire, protocol: int) -> None:
        """`protocol`: the version that the other side speaks."""
        self._wire = wire
        self._outbox = Outbox(protocol)
        self._loop = asyncio.get_running_loop()

    def post(self, frame: Frame) -> None:
        """Sends a frame at the end of the event loop's round, or sooner if a message is full."""
        waiting = self._outbox.put(frame)
        if waiting == 1:
            self._loop.call_soon(self._flush)
        elif waiting >= BATCH_FRAMES:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            self._wire.post(self._outbox.next_message())


class AgentLink(FrameSender):
    """One agent's connection to this process, after its `Hello`."""

    def __init__(
        self,
        wire: Wire,
        protocol: int,
        clock: Callable[[], float],
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_AFTER_SECONDS,
        unused_after: float = math.inf,
    ) -> None:
        """`protocol`: the version that the agent speaks. `clock` is monotonic, in seconds. `unused_after`: seconds
        without a request after which the connection ends."""
        super().__init__(wire, protocol)
        self.accepts = True
        """Whether new requests are accepted."""
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._unused_after = unused_after
        self._asked_at = clock()
        self._clock = clock
        self._requests: dict[int, LinkRequest] = {}
        self.loads = EngineLoads()
        self._ids = itertools.count(1)
        self._last_received = self._last_sent = clock()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._free = LINK_CREDIT
        self._late = _LATE
        self._control = Bucket(_CONTROL_PER_MINUTE, _CONTROL_BURST, _CONTROL_BURST, clock())
        self._unsent: OrderedDict[int, Iterator[Frame]] = OrderedDict()
        """The rest of requests that wait, since the agent reads too slowly, by stream."""
        self.said_goodbye = False
        """Whether the agent closed the connection, which it does when it stops."""
        self._retires: ClosedError | None = None
        self._on_report: Callable[[Report], None]
        self._on_released: Callable[[Released], None]

    @property
    def busy(self) -> int:
        """Number of sequences in progress or waiting at the agent, as far as it is known."""
        return self.loads.busy

    @property
    def is_over(self) -> bool:
        return self._end.done()

    def expect(self, count: int) -> None:
        """Allows `count` more control frames: the agent is about to be sent something that it answers with reports."""
        self._control.capacity = _CONTROL_BURST + count
        self._control.charge(-count, self._clock())

    # To the agent.

    async def send(self, frame: FromServer) -> None:
        """Sends a frame of any size, and waits until the agent has read enough. Raises StreamBrokenError if the
        connection is down."""
        self._flush()
        if self._wire.is_closed:
            raise StreamBrokenError("The connection to the agent is closed.")
        self._last_sent = self._clock()
        self._wire.post(encode(frame))
        await self._wire.drain()

    def ask(
        self,
        sink: AnswerSink,
        deployment_id: str,
        route: str,
        body: bytes,
        *,
        timeout: float,
        tenant: str = "",
        sequences: int = 1,
        window: int | None = None,
    ) -> LinkRequest:
        """Sends a request, whose answer is passed to `sink`. Raises StreamBrokenError.

        `timeout`: the agent's time limit, in seconds. `sequences`: as which it counts. `window`: the bytes that may be
        in transit or waiting, if the caller keeps them. The caller has to close what is returned.
        """
        if self._end.done() or self._wire.is_closed or not self.accepts:
            raise StreamBrokenError("The connection to the agent is closed.")
        if len(self._requests) >= MAX_STREAMS:
            raise StreamBrokenError("The agent has the maximum number of requests in progress.")
        self._asked_at = self._clock()
        load = self.loads.begin(deployment_id, sequences)
        if window is None:
            window = max(SMALL_CREDIT, min(INITIAL_CREDIT, self._free // 4))
        self._free -= window
        request = LinkRequest(self, next(self._ids), window, sink, load, sequences)
        self._requests[request.id] = request
        if len(body) <= BODY_SLICE and not self._unsent and not self._wire.is_blocked:
            request.is_sent = True
            self.post(Request(request.id, deployment_id, route, body, False, timeout, window, tenant))
        else:
            self._unsent[request.id] = self._slices(request, deployment_id, route, body, timeout, tenant)
            self.writable()
        return request

    @asynccontextmanager
    async def request(
        self,
        deployment_id: str,
        route: str,
        body: bytes,
        timeout: float,  # noqa: ASYNC109 - the agent's time limit, sent to it
        tenant: str = "",
    ) -> AsyncIterator[Stream]:
        """As `ask`, with a queue for the answer. Leaving the block before the end cancels the request."""
        stream = Stream()
        stream.request = self.ask(stream, deployment_id, route, body, timeout=timeout, tenant=tenant)
        try:
            yield stream
        finally:
            stream.request.close()

    def forget(self, request: LinkRequest) -> None:
        """The request is over."""
        if self._requests.pop(request.id, None) is None:
            return
        request.load.here -= request.sequences
        self._free += request.window
        self._unsent.pop(request.id, None)
        if request.is_sent and not request.ended and not self._end.done():
            self._late = min(LINK_CREDIT, self._late + request.credit + _HEAD_AND_END)
            self.post(Cancel(request.id))
        if self._retires is not None:
            self.close_when_idle(self._retires, accepts=self.accepts)

    def _slices(
        self, request: LinkRequest, deployment_id: str, route: str, body: bytes, seconds: float, tenant: str
    ) -> Iterator[Frame]:
        """The frames of a request."""
        first, rest = body[:BODY_SLICE], range(BODY_SLICE, len(body), BODY_SLICE)
        request.is_sent = True
        yield Request(request.id, deployment_id, route, first, bool(rest), seconds, request.window, tenant)
        for offset in rest:
            piece = body[offset : offset + BODY_SLICE]
            yield Body(request.id, piece, more=offset + BODY_SLICE < len(body))

    def _flush(self) -> None:
        if self._outbox:
            self._last_sent = self._clock()
        super()._flush()

    # Called by the WebSocket.

    def message(self, data: bytes) -> int:
        if self._end.done():
            return 1
        self._last_received = self._clock()
        try:
            _check_size(data)
            frames = read_from_agent(data)
            for frame in frames:
                if not isinstance(frame, _OF_ANSWERS):
                    self._handle(frame)
                elif (request := self._requests.get(frame.stream)) is not None:
                    request.deliver(frame)
                else:  # the stream was cancelled, and the agent did not know yet
                    self._take_late(frame)
        except DecodeError as error:
            self.close(ClosedError(CloseCode.PROTOCOL, f"Invalid frame: {error}."))
        except Exception as error:  # noqa: BLE001 - nobody else would end the connection
            self.close(_why(error))
        else:
            return len(frames)
        return 1

    def writable(self) -> None:
        """Sends slices of the requests that wait, in turns, while the agent reads."""
        while self._unsent and not self._wire.is_blocked and not self._end.done():
            stream_id, slices = self._unsent.popitem(last=False)
            found = next(slices, None)
            if found is not None:
                self.post(found)
                self._flush()
                self._unsent[stream_id] = slices

    def closed(self, code: int) -> None:
        if code in BROKEN_CODES:
            self.close(ClosedError(CloseCode.PROTOCOL, "The agent violated the WebSocket protocol."))
        else:
            self.said_goodbye = code != _CUT and not self._end.done()
            self.close(ClosedError(CloseCode.GOING_AWAY, "The agent closed the link."))

    def _handle(self, frame: FromAgent) -> None:
        """Takes a frame that is not part of an answer. Raises ClosedError if the frame is not allowed now."""
        if self._control.take(1, self._last_received):
            raise ClosedError(CloseCode.PROTOCOL, "The agent reports too often.")
        match frame:
            case Report():
                self._on_report(frame)
            case Released():
                self._on_released(frame)
            case Ping():
                self.loads.report(frame.loads)
            case UnknownFrame():
                pass
            case _:
                raise ClosedError(CloseCode.PROTOCOL, "Hello must be sent once, as the first frame.")

    def _take_late(self, frame: AnswerFrame) -> None:
        self._late -= len(frame.data) if isinstance(frame, Chunk) else _HEAD_AND_END // 2
        if self._late < 0:
            raise ClosedError(CloseCode.PROTOCOL, "The agent keeps sending answers that were not requested.")

    # Its life.

    async def run(
        self,
        on_report: Callable[[Report], None],
        on_released: Callable[[Released], None],
        *beside: Coroutine[Any, Any, None],
    ) -> ClosedError:
        """Serves until the connection ends, and returns why. All open streams break then.

        `beside` runs along; if it ends, so does the connection.
        """
        self._on_report, self._on_released = on_report, on_released
        tasks: list[asyncio.Future[None]] = [self._end, *map(asyncio.ensure_future, (self._beat(), *beside))]
        why = ClosedError(CloseCode.GOING_AWAY, "The server is restarting.")
        try:
            self._wire.listen(self)
            self.writable()  # what was asked before
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            why = _why(next(iter(done)).exception())
        finally:
            self.close(why)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return why

    def close(self, why: ClosedError) -> None:
        """Ends the connection; the first reason counts."""
        if not self._end.done():
            self._end.set_exception(why)
            self._end.exception()  # marks it as retrieved: nothing may be waiting for it
        for request in list(self._requests.values()):
            request.break_off(why)

    def close_when_idle(self, why: ClosedError, *, accepts: bool = True) -> None:
        """Ends the connection once no request is in progress. `accepts`: new ones may come until then."""
        self.accepts = accepts
        self._retires = why
        if not self._requests:
            self.close(why)

    async def _beat(self) -> None:
        while True:
            now = self._clock()
            if now - self._last_received >= self._dead_after:
                raise ClosedError(CloseCode.SILENT, f"No frame was received for {self._dead_after:.0f} seconds.")
            if not self._requests and now - self._asked_at >= self._unused_after:
                raise ClosedError(CloseCode.GOING_AWAY, "The connection is not used.")
            if now - self._last_sent >= self._heartbeat:
                self.post(Ping())
            await asyncio.sleep(min(self._heartbeat, self._dead_after) / 5)


def decoded_hello(data: bytes) -> FromAgent:
    """The first frame of a link. Raises ClosedError for an invalid one."""
    _check_size(data)
    try:
        return decode_from_agent(data)
    except DecodeError as error:
        raise ClosedError(CloseCode.PROTOCOL, f"Invalid frame: {error}.") from error


def _check_size(data: bytes) -> None:
    if not data or len(data) > MAX_FRAME:
        raise ClosedError(CloseCode.PROTOCOL, f"A message must be binary and have at most {MAX_FRAME} bytes.")


def _why(error: BaseException | None) -> ClosedError:
    if isinstance(error, ClosedError):
        return error
    if not isinstance(error, StreamBrokenError):
        log.error("link failed", exc_info=error)
    return ClosedError(CloseCode.GOING_AWAY, "The server had an internal error on this connection: reconnect.")
