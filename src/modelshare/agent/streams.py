"""The requests in progress on one link: their bodies, their flow-control credit, and their end."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from modelshare.agent.connection import BadFrameError
from modelshare.agent.engines.counts import TokenUsage
from modelshare.wire.link import (
    BODY_SLICE,
    MAX_REQUEST_BODY,
    MAX_STREAMS,
    MAX_TEXT,
    MAX_TOKENS,
    Answer,
    Body,
    Cancel,
    Chunk,
    Credit,
    End,
    Frame,
    Head,
    Request,
)
from modelshare.wire.text import plain

_NOTHING: Final = TokenUsage()
_OK, _LOWEST_ERROR, _HIGHEST_STATUS, _BAD_GATEWAY = 200, 400, 599, 502


class Outlet(Protocol):
    """Where frames go."""

    @property
    def is_full(self) -> bool:
        """Whether chunks have to wait."""

    def post(self, frame: Frame) -> None:
        """Queues a frame."""

    def when_space(self, callback: Callable[[], None]) -> None:
        """Calls back once, when chunks need not wait any more."""


class Stream:
    """One request and its response: either `answer` or `refuse`, or `head`, `chunk`s and `end`.

    None of these waits: the stream keeps what the server has no space for yet. Values from engines are clamped to the
    frames' bounds here, so that a faulty engine cannot break the link.
    """

    def __init__(self, request: Request, outlet: Outlet, on_close: Callable[["Stream"], None] = lambda _: None) -> None:
        self.id: Final = request.stream
        self.deployment_id: Final = request.deployment_id
        self.route: Final = request.route
        self.tenant: Final = request.tenant
        self.timeout: Final = request.timeout
        self.body: bytes | bytearray = request.body
        self.started = False
        """The head was sent: the status can no longer change."""
        self.waiting_bytes = 0
        """Bytes of the body that the server has no space for yet."""
        self.on_sent: Callable[[], None] | None = None
        """Called when some of what waited was sent."""
        self.on_over: Callable[[], None] | None = None
        """Called once: when the whole response was sent, or the request was cancelled."""
        self.task: asyncio.Task[None] | None = None
        self._outlet = outlet
        self._credit = request.credit
        self._waiting: deque[memoryview] = deque()
        self._end: End | None = None
        self._on_close = on_close
        self._is_over = False
        self._changed: asyncio.Event | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Answers the request in a task, which ends with it."""
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(lambda _: None if self._end is not None else self.close())

    def answer(
        self,
        status: int,
        content_type: str,
        data: bytes,
        usage: TokenUsage = _NOTHING,
        *,
        retry_after: int | None = None,
    ) -> None:
        """Sends a complete response, in one frame if it is small."""
        self.started = True
        if len(data) > min(BODY_SLICE, self._credit):
            self.head(status, content_type)
            self.chunk(data)
            self.end(usage)
            return
        self._finish(
            Answer(
                self.id,
                _status(status),
                content_type,
                data,
                *_counts(usage),
                estimated=usage.estimated,
                retry_after=retry_after,
            )
        )

    def refuse(self, status: int, content_type: str, data: bytes) -> None:
        """Rejects a request that was not processed.

        The server may send it to another agent, or pass this response on.
        """
        self.started = True
        self._finish(Answer(self.id, _status(status), content_type, data, refused=True))

    def head(self, status: int, content_type: str) -> None:
        """Begins a response of unknown length."""
        self.started = True
        if not self._is_over:
            self._outlet.post(Head(self.id, _status(status), content_type))

    async def credit_left(self) -> int:
        """Waits until the server has space; returns for how many bytes."""
        while self._credit <= 0 or self._waiting or self._outlet.is_full:
            self._changed = asyncio.Event()
            if self._outlet.is_full:
                self._outlet.when_space(self._send_waiting)
            await self._changed.wait()
        return self._credit

    def chunk(self, data: bytes) -> None:
        """Sends part of the body, as soon as the server has space for it."""
        size = 0 if self._is_over else len(data)
        if not self._waiting and 0 < size <= self._credit and size <= BODY_SLICE and not self._outlet.is_full:
            self._credit -= size
            self._outlet.post(Chunk(self.id, data))
        elif size:
            self._waiting.append(memoryview(data))
            self.waiting_bytes += size
            self._send_waiting()

    def end(self, usage: TokenUsage, error: str | None = None, status: int = 502) -> None:
        """Ends the response after what waits to be sent.

        If it failed, `error` says why, and `status` is the one it would have had before it started.
        """
        reason = None if error is None else plain(error, MAX_TEXT)
        end = End(self.id, reason, *_counts(usage), estimated=usage.estimated, status=status)
        if self._waiting:
            self._end = end
        else:
            self._finish(end)

    def drop_waiting(self) -> None:
        """Forgets what waits to be sent, so that an end is sent at once."""
        self._waiting.clear()
        self.waiting_bytes = 0

    def credit(self, count: int) -> None:
        """The server has space for `count` more bytes."""
        self._credit += count
        self._send_waiting()

    def close(self) -> None:
        """The response was sent, or nobody waits for it any more."""
        if self._is_over:
            return
        self._is_over = True
        if self._waiting:
            self.drop_waiting()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        self._on_close(self)
        on_over, self.on_over, self.on_sent = self.on_over, None, None  # or the two would keep each other alive
        if on_over is not None:
            on_over()

    def _send_waiting(self) -> None:
        had = self.waiting_bytes
        while self._waiting and self._credit > 0 and not self._is_over:
            if self._outlet.is_full:
                self._outlet.when_space(self._send_waiting)
                break
            data = self._waiting[0]
            size = min(len(data), self._credit, BODY_SLICE)
            self._credit -= size
            self.waiting_bytes -= size
            self._outlet.post(Chunk(self.id, bytes(data[:size])))
            if size < len(data):
                self._waiting[0] = data[size:]
            else:
                self._waiting.popleft()
        if self._changed is not None:
            self._changed.set()
        if self._end is not None and not self._waiting:
            self._finish(self._end)
        elif self.waiting_bytes < had and self.on_sent is not None:
            self.on_sent()

    def _finish(self, frame: Answer | End) -> None:
        if not self._is_over:
            self._outlet.post(frame)
            self.close()


class Streams:
    """All streams of one link; they end with it."""

    def __init__(self, outlet: Outlet, serve: Callable[[Stream], None]) -> None:
        self._outlet = outlet
        self._serve = serve
        self._open: dict[int, Stream] = {}

    def on_frame(self, frame: Request | Body | Credit | Cancel) -> None:
        """Handles a frame. Late frames of closed streams are ignored. Raises BadFrameError for an invalid request."""
        if isinstance(frame, Request):
            self._begin(frame)
        elif (known := self._open.get(frame.stream)) is None:
            pass
        elif isinstance(frame, Credit):
            known.credit(frame.bytes)
        elif isinstance(frame, Body):
            self._gather(known, frame)
        else:
            known.close()

    async def close(self) -> None:
        """The link is closed: cancels all requests, so that the engines stop working on them."""
        streams = list(self._open.values())
        for stream in streams:
            stream.close()
        await asyncio.gather(*[each.task for each in streams if each.task is not None], return_exceptions=True)

    def _begin(self, request: Request) -> None:
        if request.stream in self._open or len(self._open) >= MAX_STREAMS:
            raise BadFrameError("the server sent a request with a number in use, or too many requests at the same time")
        stream = self._open[request.stream] = Stream(request, self._outlet, self._forget)
        if request.more:
            stream.body = bytearray(request.body)
        else:
            self._serve(stream)

    def _gather(self, stream: Stream, frame: Body) -> None:
        if not isinstance(stream.body, bytearray) or len(stream.body) + len(frame.data) > MAX_REQUEST_BODY:
            stream.close()
            return
        stream.body += frame.data
        if not frame.more:
            stream.body = bytes(stream.body)
            self._serve(stream)

    def _forget(self, stream: Stream) -> None:
        self._open.pop(stream.id, None)


def _status(status: int) -> int:
    """The status if a response may have it, else 502."""
    return status if status == _OK or _LOWEST_ERROR <= status <= _HIGHEST_STATUS else _BAD_GATEWAY


def _counts(usage: TokenUsage) -> tuple[int, int]:
    return max(0, min(usage.prompt_tokens, MAX_TOKENS)), max(0, min(usage.completion_tokens, MAX_TOKENS))
