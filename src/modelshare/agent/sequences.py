"""Splits one request into calls to an engine, each in its tenant's turn, and combines their answers."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
import msgspec

from modelshare.agent.engine_call import streamed_answer, whole_answer
from modelshare.agent.engines.answers import StreamReader, write_answer, write_pieces
from modelshare.agent.engines.base import Engine
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.parts import StreamMerger, Subrequest, UsageCount, join, split
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest
from modelshare.agent.engines.sharing import TooManyWaitingError
from modelshare.transfer.tasks import run_all
from modelshare.wire.errors import ErrorCode

_BUFFER_BYTES: Final = 1 << 20
"""How far an engine may be ahead of its client. This frees the engine's slot as soon as the engine is done."""
_STALLED_SECONDS: Final = 30.0
"""How long a client that reads nothing may occupy a slot that others wait for."""
_USUAL_TOKENS: Final = 512
"""Assumed length of an answer without a limit."""
_RETRY_SECONDS: Final = 5
_T = TypeVar("_T")


class Sequences:
    """The calls for one request, already prepared for its engine."""

    def __init__(self, http: aiohttp.ClientSession, engine: Engine, tenant: str, prepared: PreparedRequest) -> None:
        self.count = UsageCount()
        self.is_over = False
        """The end of the stream has been yielded."""
        self._http = http
        self._engine = engine
        self._tenant = tenant
        self._prepared = prepared
        self._parts = split(prepared) if engine.sharing.one_by_one else [Subrequest(prepared)]

    async def whole(self) -> bytes:
        """The complete answer. Raises EngineRefusalError, and aiohttp's connection errors."""
        answers = await self._each(self._answer)
        return write_answer(join(self._parts, answers), self.count.for_client())

    async def streamed(self) -> AsyncGenerator[bytes, None]:
        """The events of all sequences as they arrive, and the end of the stream. Raises the same errors as `whole`.

        The caller may stop iterating as soon as `is_over`.
        """
        buffer = _OutputBuffer(lambda: self._engine.turns.others_wait(self._tenant))
        merger = StreamMerger()
        producing = asyncio.create_task(self._produce(buffer, merger))
        try:
            async for data in buffer:
                yield data
            self.is_over = True
            yield merger.end(self._prepared, self.count.for_client())
        finally:
            if not self.is_over:  # otherwise connections are read to the end, so that they can be reused
                producing.cancel()
            await asyncio.wait([producing])

    async def _produce(self, buffer: "_OutputBuffer", merger: StreamMerger) -> None:
        left = {part.first for part in self._parts}

        def over(part: Subrequest) -> None:
            left.discard(part.first)
            if not left:
                buffer.end()

        async def stream(part: Subrequest) -> None:
            async with self._turn(part) as (prepared, tally):
                reader = StreamReader(prepared, tally)
                async with aclosing(streamed_answer(self._http, self._engine, prepared, reader)) as answer:
                    async for pieces in answer:
                        events = merger.pieces(part, pieces)
                        if events and merger.began:  # before that, a failure is reported by the HTTP status
                            await buffer.put(write_pieces(events))
                        if reader.is_over and reader.failure is None:
                            over(part)
                over(part)

        try:
            await self._each(stream)
        except Exception as error:  # noqa: BLE001 - raised in the consumer of the stream
            buffer.end(error)

    async def _answer(self, part: Subrequest) -> Fields:
        async with self._turn(part) as (prepared, tally):
            return await whole_answer(self._http, self._engine, prepared, tally)

    async def _each(self, work: Callable[[Subrequest], Awaitable[_T]]) -> list[_T]:
        """Processes all parts concurrently, each in its turn. The first failure cancels the others."""
        if len(self._parts) == 1:
            return [await work(self._parts[0])]
        results: dict[int, _T] = {}

        async def one(part: Subrequest) -> None:
            results[part.first] = await work(part)

        await run_all(one(part) for part in self._parts)
        return [results[part.first] for part in self._parts]

    @asynccontextmanager
    async def _turn(self, part: Subrequest) -> AsyncIterator[tuple[PreparedRequest, Tally]]:
        """Waits for the part's turn, and yields the request for the engine and the counter for its answer."""
        engine, prepared = self._engine, part.prepared
        asked, fields = prepared.asked, prepared.fields
        prompt = bytes(next((fields[name] for name in ("messages", "prompt", "input") if name in fields), b""))
        unstreamed = 0 if asked.stream or not asked.generates else asked.max_tokens or _USUAL_TOKENS
        try:
            async with engine.turns.turn(self._tenant, asked.turns, prompt) as turn:
                tally = self.count.begin(part)
                try:
                    with engine.activity.asking(len(prompt), unstreamed):
                        fields = fields | engine.sharing.fields(self._tenant, turn)
                        yield msgspec.structs.replace(prepared, fields=fields), tally
                finally:
                    turn.worked = tally.began
        except TooManyWaitingError:
            raise EngineRefusalError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many requests of your project are waiting for this model. Try again when some of them have "
                "finished.",
                code=ErrorCode.CAPACITY_EXCEEDED,
                retry_after=_RETRY_SECONDS,
            ) from None


class _OutputBuffer:
    """Buffers an engine's output until the client reads it."""

    def __init__(self, others_wait: Callable[[], bool]) -> None:
        self._others_wait = others_wait
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_over = False
        self._error: Exception | None = None
        self._more = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Waits for space. Raises EngineRefusalError if the client reads nothing while others wait for the engine."""
        while self._size >= _BUFFER_BYTES:
            self._taken.clear()
            try:
                async with asyncio.timeout(_STALLED_SECONDS):
                    await self._taken.wait()
            except TimeoutError:
                if self._others_wait():
                    raise EngineRefusalError(
                        HTTPStatus.REQUEST_TIMEOUT, "The client read the answer too slowly while others were waiting."
                    ) from None
        self._pieces.append(data)
        self._size += len(data)
        self._more.set()

    def end(self, error: Exception | None = None) -> None:
        """Marks the end of the output, with an error if it failed."""
        self._is_over, self._error = True, self._error or error
        self._more.set()

    def __aiter__(self) -> "_OutputBuffer":
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._is_over:
                raise self._error or StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._taken.set()
        return data
