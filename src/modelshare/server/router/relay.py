"""Relays one inference request to an agent that can answer it, and the answer back to the client."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final, Protocol

import structlog
from starlette.types import Receive

from modelshare.server.errors import PayloadTooLargeError, UnavailableError
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import AnswerStream, StreamBrokenError
from modelshare.server.router.errors import BadGatewayError, ClientGoneError, EngineRefusedError
from modelshare.server.router.metering import MeteredUsage
from modelshare.server.router.reply import Reply
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import InferenceRequest, most_tokens, tokens_in
from modelshare.wire.link import Answer, AnswerFrame, Chunk, End, Head

log = structlog.get_logger()
_EVENTS: Final = "text/event-stream"
_GATHERED: Final = 8 << 20
"""Bytes of an answer that is not a stream. Up to this size it is sent when complete, so that a failure can still be
reported by the status; longer answers are sent as they arrive."""
_WATCH_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 2
_DONE: Final = b"data: [DONE]\n\n"
_OK: Final = 200
_SERVER_ERROR: Final = 500
_SEARCHES: Final = 3
"""How often the targets are looked up for one request: the version may change again meanwhile."""
LONGEST_STREAM: Final = 24 * 3600.0
"""Time limit sent to the agent, in seconds. The tier's limits are applied here, since streams may take longer."""


class Selector(Protocol):
    """Chooses targets and sends requests to them."""

    def best(self, targets: Sequence[Target]) -> Target | None:
        """The least busy one that can be reached."""
        ...

    def request(
        self, target: Target, route: str, body: bytes, *, tenant: str, timeout: float
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Sends a request for `tenant`, the project's name for agents. Raises StreamBrokenError."""
        ...


async def read_body(receive: Receive, limit: int, announced: int) -> bytes:
    """The request's body. 413 if it, or its Content-Length, exceeds `limit` bytes."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and max(size, announced) <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    if max(size, announced) > limit:
        raise PayloadTooLargeError(f"The request body is longer than {limit} bytes, the maximum on this platform.")
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def watched(receive: Receive, gone: Callable[[], None]) -> Iterator[None]:
    """Calls `gone` if the client disconnects within the block. The request's body must have been read.

    Watching starts after a short delay, so that quick answers need no task for it.
    """
    watching: list[asyncio.Future[Any]] = []

    def watch() -> None:
        watching.append(asyncio.ensure_future(receive()))
        watching[0].add_done_callback(lambda _: gone())

    timer = asyncio.get_running_loop().call_later(_WATCH_SECONDS, watch)
    try:
        yield
    finally:
        timer.cancel()
        for future in watching:
            future.cancel()


class RequestRelay:
    """One request, once its body has been read."""

    def __init__(
        self,
        selector: Selector,
        tenant: str,
        asked: InferenceRequest,
        reply: Reply,
        timer: asyncio.Timeout,
        idle_seconds: float,
    ) -> None:
        """`timer` ends the request; each chunk of a stream postpones it by `idle_seconds`."""
        self._asked = asked
        self._selector = selector
        self._tenant = tenant
        self._reply = reply
        self._timer = timer
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._stream: AnswerStream | None = None
        self._refused: set[str] = set()
        self._is_gone = False
        self._is_asked = False
        """Whether an engine may be working on the request."""
        self._events = 0
        self._answer_bytes = 0
        self._usage: MeteredUsage | None = None
        self._body_bytes = 0
        self._context: int | None = None
        self._status = _OK

    @property
    def usage(self) -> MeteredUsage:
        """The agent's count, or an estimate if that is missing or impossible, also for a truncated answer.

        If the client disconnected before the answer started, only the prompt is counted: the engine's progress is
        unknown.
        """
        if self._usage is None and self._status == _OK and (self._reply.started or self._is_asked):
            return self._estimate()
        return self._usage or MeteredUsage()

    def client_gone(self) -> None:
        """Call when the client disconnects: cancels the engine's work."""
        self._is_gone = True
        if self._stream is not None:
            self._stream.fail(ClientGoneError())

    async def run(self, find_targets: Callable[[], Awaitable[Sequence[Target]]], route: str, body: bytes) -> None:
        """Relays, and tries another target while nothing has been answered: after a broken connection or a refusal.

        `find_targets` returns new ones when called again: an agent may learn of a new version before this process, and
        stop a deployment to which requests are still being sent.
        """
        self._body_bytes = len(body)
        for _ in range(_SEARCHES):
            left = [target for target in await find_targets() if target.deployment_id not in self._refused]
            while (target := self._selector.best(left)) is not None:
                left.remove(target)
                if await self._by(target, route, body):
                    return
        if self._refused:
            raise UnavailableError(
                "The model is being loaded on its machine; try again in a moment.",
                code=ErrorCode.MODEL_LOADING,
                retry_after=_RETRY_SECONDS,
            )
        raise UnavailableError(
            "The machine that runs the model is disconnected. Try again in a moment.", retry_after=_RETRY_SECONDS
        )

    async def _by(self, target: Target, route: str, body: bytes) -> bool:
        """Relays to this target. False if nothing was answered and another one should be tried."""
        try:
            request = self._selector.request(target, route, body, tenant=self._tenant, timeout=LONGEST_STREAM)
            async with request as stream:
                self._stream = stream
                self._context = target.context_length
                if self._is_gone:
                    stream.fail(ClientGoneError())
                self._is_asked = True
                head = await stream.next()
                if isinstance(head, Answer) and head.refused:
                    self._is_asked = False
                    self._refused.add(target.deployment_id)
                    return False
                await self._pass(head, stream)
        except StreamBrokenError as error:
            self._is_asked = False
            if self._reply.started:
                raise BadGatewayError(
                    "The connection to the machine that runs the model was lost. Try again."
                ) from error
            return False
        return True

    async def _pass(self, head: AnswerFrame, stream: AnswerStream) -> None:
        if isinstance(head, Answer | Head):
            self._status = head.status
        match head:
            case Answer():
                self._answer_bytes = len(head.data)
                self._count(head)
                wait = [] if head.retry_after is None else [(b"retry-after", b"%d" % head.retry_after)]
                await self._reply.whole(head.status, head.content_type.encode(), head.data, wait)
            case Head() if head.content_type.startswith(_EVENTS):
                await self._pass_events(stream, head)
            case Head():
                await self._pass_whole(stream, head)
            case _:
                self._is_asked = False
                raise BadGatewayError("The engine gave no answer. Try again.")

    async def _pass_events(self, stream: AnswerStream, head: Head) -> None:
        # The status waits for the first chunk: until then a failure can still be reported by its status.
        frame = await self._next(stream)
        if frame is not None:
            await self._reply.start(head.status, head.content_type.encode(), events=True)
        tail = b""
        while frame is not None:
            self._timer.reschedule(self._loop.time() + self._idle_seconds)
            tail = (tail + frame.data)[-len(_DONE) :]
            is_last = tail == _DONE
            # The last bytes wait for the token count: many clients leave as soon as they have them.
            after = await self._next(stream) if is_last else None
            self._events += _events_in(frame.data) - is_last
            await self._reply.write(frame.data)
            frame = after if is_last else await self._next(stream)
        if not self._reply.started:
            await self._reply.start(head.status, head.content_type.encode(), events=True)
        await self._reply.end()

    async def _pass_whole(self, stream: AnswerStream, head: Head) -> None:
        gathered: list[bytes] = []
        while (frame := await self._next(stream)) is not None:
            self._answer_bytes += len(frame.data)
            if self._reply.started:
                await self._reply.write(frame.data)
                continue
            gathered.append(frame.data)
            if self._answer_bytes > _GATHERED:
                await self._reply.start(head.status, head.content_type.encode(), events=False)
                await self._reply.write(b"".join(gathered))
        if self._reply.started:
            await self._reply.end()
        else:
            await self._reply.whole(head.status, head.content_type.encode(), b"".join(gathered))

    async def _next(self, stream: AnswerStream) -> Chunk | None:
        """The next chunk, or None at the end. Raises BadGatewayError or EngineRefusedError if the answer is
        incomplete."""
        frame = await stream.next()
        if isinstance(frame, Chunk):
            return frame
        if isinstance(frame, End):
            self._is_asked = False
            self._count(frame)
            if frame.error is None:
                return None
            raise (BadGatewayError if frame.status >= _SERVER_ERROR else EngineRefusedError)(frame.error)
        raise BadGatewayError("The machine that runs the model sent an unexpected answer. Try again.")

    def _count(self, frame: Answer | End) -> None:
        if self._status != _OK:
            self._usage = MeteredUsage()
            return
        if not frame.prompt_tokens and not frame.completion_tokens:
            return  # the engine did not count
        most_prompt, most_completion = most_tokens(self._asked, self._body_bytes, self._context)
        if frame.prompt_tokens <= most_prompt and frame.completion_tokens <= most_completion:
            self._usage = MeteredUsage(frame.prompt_tokens, frame.completion_tokens, frame.estimated)
            return
        log.warning(
            "an agent reports more tokens than the request can have",
            prompt_tokens=frame.prompt_tokens,
            completion_tokens=frame.completion_tokens,
        )

    def _estimate(self) -> MeteredUsage:
        most_prompt, most_completion = most_tokens(self._asked, self._body_bytes, self._context)
        completion = self._events or tokens_in(self._answer_bytes)
        return MeteredUsage(
            min(tokens_in(self._body_bytes), most_prompt), min(completion, most_completion), is_estimate=True
        )


def _events_in(data: bytes) -> int:
    """Events that begin in it. `data:` inside a text is JSON-encoded and so never at the start of a line."""
    return data.startswith(b"data:") + data.count(b"\ndata:")
