"""One agent's connection: streams over a WebSocket, with credit, cancellation and heartbeats. No database here.

A stream's frames wait in its queue until they are asked for. The queue cannot outgrow the credit that the agent was
given, and credit is only given back for bytes that went on to the client. So a slow client slows down its own engine,
not the other streams of the connection.

Whatever an agent sends, at most `LINK_CREDIT + MAX_STREAMS * SMALL_CREDIT` bytes of answers (96 MiB) are kept, plus one
frame that is being read, and a `Head` and an `End` per stream. Chunks that wait are joined, so that a thousand small
ones weigh no more than their bytes. All other frames are rate-limited.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import structlog
from msgspec import DecodeError
from starlette.types import Receive, Send

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
    Credit,
    End,
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

log = structlog.get_logger()
LINK_CREDIT: Final = 32 << 20
"""Bytes that all streams together may have in transit or waiting; beyond it each stream has `SMALL_CREDIT`."""
SMALL_CREDIT: Final = 16 << 10
_CREDIT_STEPS: Final = 4
"""Credit is given back in quarters of the window: one frame per chunk would cost too much."""
_BROKEN: Final = frozenset({1002, 1007, 1009})
"""Close codes for a peer that broke the WebSocket protocol or sent too much at once (RFC 6455 section 7.4.1)."""
_HEAD_AND_END: Final = 4096
"""Maximum bytes of a `Head` and an `End` together."""
_LATE: Final = 1 << 20
"""Bytes accepted for streams that have ended, beyond what was in transit when they were cancelled."""
_CONTROL_BURST: Final = 1000
_CONTROL_PER_MINUTE: Final = 1200
"""Limits `Report`, `Released`, `Ping`, and frames of unknown kinds. Two models are pulled at a time, and each may
report twice a second."""


class StreamBrokenError(Exception):
    """The connection to the engine broke before the answer was complete."""


class ClosedError(Exception):
    """The connection ends; `reason` is sent to the agent."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class AnswerStream(Protocol):
    """An answer as it arrives, over this process's connection or from another process."""

    async def next(self) -> AnswerFrame:
        """The next frame. Raises StreamBrokenError, or what `fail` was given."""
        ...

    def fail(self, error: Exception) -> None:
        """Makes `next` raise, after the frames that have already arrived."""
        ...


class Stream:
    """One request on the connection: a queue of its answer's frames, from the reading task to whoever calls `next`."""

    __slots__ = ("_begun", "_error", "_frames", "_link", "_owed", "_waiter", "credit", "ended", "id", "window")

    def __init__(self, link: "AgentLink", stream_id: int, window: int) -> None:
        self.id = stream_id
        self.window = window
        """Bytes that may be in transit or waiting here."""
        self.credit = window
        """Bytes that the agent may still send."""
        self.ended = False
        self._begun = False
        self._link = link
        self._owed = 0
        self._frames: deque[AnswerFrame | bytearray] = deque()
        """A bytearray is chunks that were joined."""
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def deliver(self, frame: AnswerFrame) -> None:
        """Adds a frame from the agent. Raises ClosedError if it is out of sequence or exceeds the credit."""
        kind = type(frame)
        if self.ended or (kind is Chunk and not self._begun) or (kind in {Head, Answer} and self._begun):
            raise ClosedError(CloseCode.PROTOCOL, "The agent sent a frame out of sequence.")
        self._begun = True
        self.ended = kind in {End, Answer}
        if isinstance(frame, Chunk | Answer):
            self.credit -= len(frame.data)
            if self.credit < 0:
                raise ClosedError(CloseCode.PROTOCOL, "The agent exceeded its credit.")
        self._append(frame)

    def break_off(self, reason: str) -> None:
        """Ends the answer after a protocol violation. The request is not retried elsewhere: it may have been the
        cause."""
        if not self.ended:
            self.ended = True
            self._append(End(self.id, reason))

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    async def next(self) -> AnswerFrame:
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken = self._frames.popleft()
        frame = Chunk(self.id, bytes(taken)) if isinstance(taken, bytearray) else taken
        if type(frame) is Chunk and not self.ended:
            self._owed += len(frame.data)
            if self._owed >= self.window // _CREDIT_STEPS:
                owed, self._owed = self._owed, 0
                self.credit += owed
                await self._link.send(Credit(self.id, owed))
        return frame

    def _append(self, frame: AnswerFrame) -> None:
        if not (type(frame) is Chunk and self._frames and self._joined(frame.data)):
            self._frames.append(frame)
        self._wake()

    def _joined(self, data: bytes) -> bool:
        """Appends to the last chunk if it is still waiting and has room; whether it did."""
        last = self._frames[-1]
        before = last.data if type(last) is Chunk else last
        if not isinstance(before, bytes | bytearray) or len(before) + len(data) > BODY_SLICE:
            return False
        if isinstance(before, bytes):
            before = self._frames[-1] = bytearray(before)
        before += data
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AgentLink:
    """One agent's connection to this process, from `Welcome` to its end."""

    def __init__(self, receive: Receive, send: Send, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._receive = receive
        self._send = send
        self._clock = clock
        self._streams: dict[int, Stream] = {}
        self._ids = itertools.count(1)
        self._last_received = self._last_sent = clock()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancels: set[asyncio.Task[None]] = set()
        self._free = LINK_CREDIT
        self._late = _LATE
        self._control = Bucket(_CONTROL_PER_MINUTE, _CONTROL_BURST, _CONTROL_BURST, clock())

    @property
    def busy(self) -> int:
        """Number of requests in progress."""
        return len(self._streams)

    @property
    def is_over(self) -> bool:
        return self._end.done()

    async def receive(self) -> FromAgent:
        """The agent's next frame. Raises ClosedError at the end of the connection and for an invalid frame."""
        message = await self._receive()
        if message.get("code") in _BROKEN:
            raise ClosedError(CloseCode.PROTOCOL, "The agent violated the WebSocket protocol.")
        if message["type"] != "websocket.receive":
            raise ClosedError(CloseCode.GOING_AWAY, "The agent closed the link.")
        self._last_received = self._clock()
        data = message.get("bytes")
        if not data or len(data) > MAX_FRAME:
            raise ClosedError(CloseCode.PROTOCOL, f"A frame must be binary and have at most {MAX_FRAME} bytes.")
        try:
            frame = decode_from_agent(data)
        except DecodeError as error:
            raise ClosedError(CloseCode.PROTOCOL, f"Invalid frame: {error}.") from error
        if not isinstance(frame, AnswerFrame) and self._control.take(1, self._last_received):
            raise ClosedError(CloseCode.PROTOCOL, "The agent reports too often.")
        return frame

    def expect(self, count: int) -> None:
        """Allows `count` more control frames: the agent is about to be sent something that it answers with reports."""
        self._control.capacity = _CONTROL_BURST + count
        self._control.charge(-count, self._clock())

    async def send(self, frame: FromServer) -> None:
        """Raises StreamBrokenError if the connection is down."""
        self._last_sent = self._clock()
        try:
            await self._send({"type": "websocket.send", "bytes": encode(frame)})
        except Exception as error:  # servers raise different errors for a closed socket
            raise StreamBrokenError("The connection to the agent is closed.") from error

    @asynccontextmanager
    async def request(
        self,
        deployment_id: str,
        route: str,
        body: bytes,
        timeout: float,  # noqa: ASYNC109 - the agent's time limit, sent to it
        tenant: str = "",
    ) -> AsyncIterator[Stream]:
        """Sends a request and yields the stream of its answer. Leaving the block before the end cancels the request."""
        if self._end.done():
            raise StreamBrokenError("The connection to the agent is closed.")
        if len(self._streams) >= MAX_STREAMS:
            raise StreamBrokenError("The agent has the maximum number of requests in progress.")
        window = max(SMALL_CREDIT, min(INITIAL_CREDIT, self._free // 4))
        self._free -= window
        stream = Stream(self, next(self._ids), window)
        self._streams[stream.id] = stream
        try:
            first, rest = body[:BODY_SLICE], range(BODY_SLICE, len(body), BODY_SLICE)
            request = Request(
                stream.id, deployment_id, route, first, bool(rest), timeout=timeout, credit=window, tenant=tenant
            )
            await self.send(request)
            for offset in rest:
                end = offset + BODY_SLICE
                await self.send(Body(stream.id, body[offset:end], more=end < len(body)))
            yield stream
        finally:
            del self._streams[stream.id]
            self._free += window
            if not stream.ended and not self._end.done():
                self._late = min(LINK_CREDIT, self._late + stream.credit + _HEAD_AND_END)
                self._cancel(stream.id)

    async def run(
        self,
        on_report: Callable[[Report], None],
        on_released: Callable[[Released], None],
        *beside: Coroutine[Any, Any, None],
    ) -> ClosedError:
        """Serves until the connection ends, and returns why. All open streams break then.

        `beside` runs along; if it ends, so does the connection.
        """
        own = (self._read(on_report, on_released), self._beat())
        tasks: list[asyncio.Future[None]] = [self._end, *map(asyncio.ensure_future, (*own, *beside))]
        why = ClosedError(CloseCode.GOING_AWAY, "The server is restarting.")
        try:
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
        for stream in self._streams.values():
            if why.code is CloseCode.PROTOCOL:
                stream.break_off("The agent violated the link protocol.")
            stream.fail(StreamBrokenError("The connection to the agent was lost."))

    async def _read(self, on_report: Callable[[Report], None], on_released: Callable[[Released], None]) -> None:
        while True:
            frame = await self.receive()
            match frame:
                case Answer() | Chunk() | Head() | End():
                    stream = self._streams.get(frame.stream)
                    if stream is not None:
                        stream.deliver(frame)
                    else:  # the stream was cancelled, and the agent did not know yet
                        self._take_late(frame)
                case Report():
                    on_report(frame)
                case Released():
                    on_released(frame)
                case Ping() | UnknownFrame():
                    pass
                case _:
                    raise ClosedError(CloseCode.PROTOCOL, "Hello must be sent once, as the first frame.")

    def _take_late(self, frame: AnswerFrame) -> None:
        self._late -= len(frame.data) if isinstance(frame, Chunk) else _HEAD_AND_END // 2
        if self._late < 0:
            raise ClosedError(CloseCode.PROTOCOL, "The agent keeps sending answers that were not requested.")

    async def _beat(self) -> None:
        while True:
            now = self._clock()
            if now - self._last_received >= DEAD_AFTER_SECONDS:
                raise ClosedError(CloseCode.SILENT, f"No frame was received for {DEAD_AFTER_SECONDS:.0f} seconds.")
            if now - self._last_sent >= HEARTBEAT_SECONDS:
                try:
                    # An agent that no longer reads would block this send forever, and the check for silence with it.
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self.send(Ping())
                except (TimeoutError, StreamBrokenError):
                    log.info("a ping could not be sent to an agent")
            await asyncio.sleep(HEARTBEAT_SECONDS / 5)

    def _cancel(self, stream_id: int) -> None:
        """Sends the cancellation in a separate task, since the caller may itself be being cancelled."""

        async def cancel() -> None:
            try:
                await self.send(Cancel(stream_id))
            except StreamBrokenError:
                log.debug("cannot cancel a stream: the agent disconnected", stream=stream_id)

        task = asyncio.ensure_future(cancel())
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)


def _why(error: BaseException | None) -> ClosedError:
    if isinstance(error, ClosedError):
        return error
    if not isinstance(error, StreamBrokenError):
        log.error("link failed", exc_info=error)
    return ClosedError(CloseCode.GOING_AWAY, "The server had an internal error on this connection: reconnect.")
