"""The requests in progress on one link: their bodies, their flow-control credit, and their end."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

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
Send = Callable[[Frame], Awaitable[None]]
_HIGHEST_STATUS: Final = 599


class Stream:
    """One request and its response: either `answer` or `refuse`, or `head`, `chunk`s and `end`.

    Values from engines are clamped to the frames' bounds here, so that a faulty engine cannot break the link.
    """

    def __init__(self, request: Request, send: Send) -> None:
        self.id: Final = request.stream
        self.deployment_id: Final = request.deployment_id
        self.route: Final = request.route
        self.tenant: Final = request.tenant
        self.timeout: Final = request.timeout
        self.body: bytes | bytearray = request.body
        self.started = False
        """The head was sent: the status can no longer change."""
        self._send = send
        self._credit = request.credit
        self._credited: asyncio.Event | None = None

    async def answer(
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
        if len(data) <= min(BODY_SLICE, self._credit):
            frame = Answer(
                self.id,
                _status(status),
                content_type,
                data,
                *_counts(usage),
                estimated=usage.estimated,
                retry_after=retry_after,
            )
            await self._send(frame)
            return
        await self.head(status, content_type)
        await self.chunk(data)
        await self.end(usage)

    async def refuse(self, status: int, content_type: str, data: bytes) -> None:
        """Rejects a request that was not processed.

        The server may send it to another agent, or pass this response on.
        """
        self.started = True
        await self._send(Answer(self.id, _status(status), content_type, data, refused=True))

    async def head(self, status: int, content_type: str) -> None:
        """Begins a response of unknown length."""
        self.started = True
        await self._send(Head(self.id, _status(status), content_type))

    async def credit_left(self) -> int:
        """Waits until the server has space; returns for how many bytes."""
        while self._credit <= 0:
            self._credited = asyncio.Event()
            await self._credited.wait()
        return self._credit

    async def chunk(self, data: bytes) -> None:
        """Sends part of the body, after waiting for this stream's credit."""
        view = memoryview(data)
        while view:
            size = min(len(view), await self.credit_left(), BODY_SLICE)
            self._credit -= size
            await self._send(Chunk(self.id, data if size == len(data) else bytes(view[:size])))
            view = view[size:]

    async def end(self, usage: TokenUsage, error: str | None = None, status: int = 502) -> None:
        """Ends the response.

        If it failed, `error` says why, and `status` is the one it would have had before it started.
        """
        reason = None if error is None else plain(error, MAX_TEXT)
        await self._send(End(self.id, reason, *_counts(usage), estimated=usage.estimated, status=status))

    def credit(self, count: int) -> None:
        """The server has space for `count` more bytes."""
        self._credit += count
        if self._credited is not None:
            self._credited.set()
            self._credited = None


class Streams:
    """All streams of one link; they end with it."""

    def __init__(self, send: Send, serve: Callable[[Stream], Coroutine[Any, Any, None]]) -> None:
        self._send = send
        self._serve = serve
        self._open: dict[int, tuple[Stream, asyncio.Task[None] | None]] = {}

    def on_frame(self, frame: Request | Body | Credit | Cancel) -> None:
        """Handles a frame. Late frames of closed streams are ignored. Raises BadFrameError for an invalid request."""
        if isinstance(frame, Request):
            if frame.stream in self._open or len(self._open) >= MAX_STREAMS:
                raise BadFrameError(
                    "the server sent a request with a number in use, or too many requests at the same time"
                )
            stream = Stream(frame, self._send)
            if frame.more:
                stream.body = bytearray(frame.body)
                self._open[frame.stream] = stream, None
            else:
                self._start(stream)
        elif (known := self._open.get(frame.stream)) is None:
            pass
        elif isinstance(frame, Credit):
            known[0].credit(frame.bytes)
        elif isinstance(frame, Body):
            self._gather(known[0], frame)
        else:
            self._cancel(frame.stream)

    async def close(self) -> None:
        """The link is closed: cancels all requests, so that the engines stop working on them."""
        tasks = [task for _, task in self._open.values() if task is not None]
        for stream in list(self._open):
            self._cancel(stream)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _gather(self, stream: Stream, frame: Body) -> None:
        if not isinstance(stream.body, bytearray) or len(stream.body) + len(frame.data) > MAX_REQUEST_BODY:
            self._cancel(stream.id)
            return
        stream.body += frame.data
        if not frame.more:
            stream.body = bytes(stream.body)
            self._start(stream)

    def _start(self, stream: Stream) -> None:
        task = asyncio.create_task(self._serve(stream))
        self._open[stream.id] = stream, task
        task.add_done_callback(lambda _: self._open.pop(stream.id, None))

    def _cancel(self, stream_id: int) -> None:
        _, task = self._open.pop(stream_id)
        if task is not None:
            task.cancel()


def _status(status: int) -> int:
    """The status if a response may have it, else 502."""
    is_fit = status == HTTPStatus.OK or HTTPStatus.BAD_REQUEST <= status <= _HIGHEST_STATUS
    return status if is_fit else HTTPStatus.BAD_GATEWAY


def _counts(usage: TokenUsage) -> tuple[int, int]:
    return _tokens(usage.prompt_tokens), _tokens(usage.completion_tokens)


def _tokens(count: int) -> int:
    return max(0, min(count, MAX_TOKENS))
