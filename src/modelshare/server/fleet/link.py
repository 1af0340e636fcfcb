"""One agent's link: streams over a WebSocket, with credit, cancel and heartbeats. Knows nothing of the database.

A stream's frames wait in its queue until they are asked for. The queue cannot outgrow the credit the agent was given,
and credit is only given for bytes that went on to the client: a slow client slows the engine down, not the link.
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

from modelshare.wire.link import (
    BODY_SLICE,
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    INITIAL_CREDIT,
    MAX_FRAME,
    Answer,
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
    decode_from_agent,
    encode,
)

log = structlog.get_logger()
AnswerFrame = Head | Chunk | End | Answer
_CREDIT_STEP: Final = INITIAL_CREDIT // 4
"""Credit is given back in steps: a frame per chunk would cost more than it is worth."""


class StreamBrokenError(Exception):
    """The way to the engine broke before the answer was whole."""


class ClosedError(Exception):
    """The link ends, and why."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class AnswerStream(Protocol):
    """An answer as it comes, whatever way it takes to this process."""

    async def next(self) -> AnswerFrame:
        """The next frame. Raises StreamBrokenError, or what `fail` was given."""
        ...

    def fail(self, error: Exception) -> None:
        """Makes `next` raise once the frames that are there were taken."""
        ...


class FrameQueue:
    """Frames between the one that receives them and the one that waits for them."""

    __slots__ = ("_error", "_frames", "_waiter")

    def __init__(self) -> None:
        self._frames: deque[AnswerFrame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def deliver(self, frame: AnswerFrame) -> None:
        self._frames.append(frame)
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    async def next(self) -> AnswerFrame:
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._frames.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Stream(FrameQueue):
    """A request on a link."""

    __slots__ = ("_credit", "_link", "_owed", "ended", "id")

    def __init__(self, link: "Link", stream_id: int) -> None:
        super().__init__()
        self.id = stream_id
        self.ended = False
        self._link = link
        self._credit = INITIAL_CREDIT
        self._owed = 0

    def deliver(self, frame: AnswerFrame) -> None:
        """A frame of the agent's. Raises ClosedError when it sends more than it may."""
        if type(frame) is Chunk:
            self._credit -= len(frame.data)
            if self._credit < 0:
                raise ClosedError(CloseCode.PROTOCOL, "The agent sent more than it had credit for.")
        elif type(frame) is not Head:
            self.ended = True
        super().deliver(frame)

    async def next(self) -> AnswerFrame:
        frame = await super().next()
        if type(frame) is Chunk and not self.ended:
            self._owed += len(frame.data)
            if self._owed >= _CREDIT_STEP:
                owed, self._owed = self._owed, 0
                self._credit += owed
                await self._link.send(Credit(self.id, owed))
        return frame


class Link:
    """The link of one agent in this process, from its `Welcome` to its end."""

    def __init__(self, receive: Receive, send: Send, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._receive = receive
        self._send = send
        self._clock = clock
        self._streams: dict[int, Stream] = {}
        self._ids = itertools.count(1)
        self._heard = self._spoke = clock()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancels: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> int:
        """Requests under way."""
        return len(self._streams)

    @property
    def is_over(self) -> bool:
        return self._end.done()

    async def receive(self) -> FromAgent:
        """The agent's next frame. Raises ClosedError at the end of the link, and for what is no frame."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise ClosedError(CloseCode.GOING_AWAY, "The agent closed the link.")
        self._heard = self._clock()
        data = message.get("bytes")
        if not data or len(data) > MAX_FRAME:
            raise ClosedError(CloseCode.PROTOCOL, f"A frame is binary and has at most {MAX_FRAME} bytes.")
        try:
            frame: FromAgent = decode_from_agent(data)
        except DecodeError as error:
            raise ClosedError(CloseCode.PROTOCOL, f"This is no frame: {error}.") from error
        return frame

    async def send(self, frame: FromServer) -> None:
        """Raises StreamBrokenError when the link is down."""
        self._spoke = self._clock()
        try:
            await self._send({"type": "websocket.send", "bytes": encode(frame)})
        except Exception as error:  # servers differ in what they raise for a socket that is gone
            raise StreamBrokenError("The link to the agent is down.") from error

    @asynccontextmanager
    async def request(
        self,
        deployment_id: str,
        route: str,
        body: bytes,
        timeout: float,  # noqa: ASYNC109 - the agent's time limit, sent to it
        tenant: str = "",
    ) -> AsyncIterator[Stream]:
        """Sends a request and gives its answer's stream; leaving before the answer's end cancels it."""
        if self._end.done():
            raise StreamBrokenError("The link to the agent is down.")
        stream = Stream(self, next(self._ids))
        self._streams[stream.id] = stream
        try:
            first, rest = body[:BODY_SLICE], range(BODY_SLICE, len(body), BODY_SLICE)
            more = bool(rest)
            await self.send(Request(stream.id, deployment_id, route, first, more, timeout, INITIAL_CREDIT, tenant))
            for offset in rest:
                end = offset + BODY_SLICE
                await self.send(Body(stream.id, body[offset:end], more=end < len(body)))
            yield stream
        finally:
            del self._streams[stream.id]
            if not stream.ended and not self._end.done():
                self._cancel(stream.id)

    async def run(
        self,
        on_report: Callable[[Report], None],
        on_released: Callable[[Released], None],
        *beside: Coroutine[Any, Any, None],
    ) -> ClosedError:
        """Serves until the link ends, and answers why it did. Every stream under way breaks then.

        `beside` runs as long as the link does, and the link no longer than that.
        """
        own = (self._read(on_report, on_released), self._beat())
        tasks: list[asyncio.Future[None]] = [self._end, *map(asyncio.ensure_future, (*own, *beside))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next(iter(done)).exception()
        finally:
            self.close(ClosedError(CloseCode.GOING_AWAY, "The server restarts."))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(error, ClosedError):
            return error
        if not isinstance(error, StreamBrokenError):
            log.error("link failed", exc_info=error)
        return ClosedError(CloseCode.GOING_AWAY, "The server had a problem with this link: link again.")

    def close(self, why: ClosedError) -> None:
        """Ends the link; the first reason counts."""
        if not self._end.done():
            self._end.set_exception(why)
            self._end.exception()  # it may end before anybody waits for its end
        for stream in self._streams.values():
            stream.fail(StreamBrokenError("The link to the agent broke."))

    async def _read(self, on_report: Callable[[Report], None], on_released: Callable[[Released], None]) -> None:
        while True:
            frame = await self.receive()
            match frame:
                case Answer() | Chunk() | Head() | End():
                    stream = self._streams.get(frame.stream)
                    if stream is not None:  # else it was cancelled, and the agent had not heard yet
                        stream.deliver(frame)
                case Report():
                    on_report(frame)
                case Released():
                    on_released(frame)
                case Ping():
                    pass
                case _:
                    raise ClosedError(CloseCode.PROTOCOL, "Hello comes once, as the first frame.")

    async def _beat(self) -> None:
        while True:
            now = self._clock()
            if now - self._heard >= DEAD_AFTER_SECONDS:
                raise ClosedError(CloseCode.SILENT, f"No frame came for {DEAD_AFTER_SECONDS:.0f} seconds.")
            if now - self._spoke >= HEARTBEAT_SECONDS:
                try:
                    # A peer that takes nothing any more must not keep us from noticing that it is silent.
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self.send(Ping())
                except (TimeoutError, StreamBrokenError):
                    log.info("a link takes no ping")
            await asyncio.sleep(HEARTBEAT_SECONDS / 5)

    def _cancel(self, stream_id: int) -> None:
        """Tells the agent, without making the one who leaves wait for it (he may be cancelled himself)."""

        async def cancel() -> None:
            try:
                await self.send(Cancel(stream_id))
            except StreamBrokenError:
                log.debug("nobody left to cancel", stream=stream_id)

        task = asyncio.ensure_future(cancel())
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)
