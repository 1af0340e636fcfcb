"""One call to an engine on loopback, and its answer.

Cancelling it closes the connection, upon which the engine stops working on it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from modelshare.agent.engines.answers import StreamReader, read_answer
from modelshare.agent.engines.base import Engine
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.refusals import no_answer, refused
from modelshare.agent.engines.relay_rules import PreparedRequest

_HEADERS: Final = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
_IDLE_SECONDS: Final = 3.0
"""Idle connections are closed before engines do so: uvicorn has the shortest timeout, 5 s."""
_CONNECT_SECONDS: Final = 5.0
_END_SECONDS: Final = 0.02
"""How long to wait for the end of the HTTP response after the last event, so that its connection can be reused."""
_MAX_BYTES: Final = 512 << 20
"""Maximum size of an answer; many vectors are long."""
_MAX_ERROR_BYTES: Final = 64 << 10
_CLOSED: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""The errors with which a kept-alive connection that the engine closed may fail."""


def engine_session(*, keep: bool = True) -> aiohttp.ClientSession:
    """The HTTP client for engines.

    `keep`: reuse connections. Their number is not limited here, since the server limits it.
    """
    kept: dict[str, Any] = {"keepalive_timeout": _IDLE_SECONDS} if keep else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, **kept),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        auto_decompress=False,
    )


async def whole_answer(http: aiohttp.ClientSession, engine: Engine, prepared: PreparedRequest, tally: Tally) -> Fields:
    """The complete answer, for `answers.write_answer`. Raises EngineRefusalError, and aiohttp's connection errors."""
    async with _called(http, engine, prepared) as answer:
        fields = read_answer(await _read(answer, _MAX_BYTES), prepared, tally)
        engine.activity.succeeded()
        return fields


async def streamed_answer(
    http: aiohttp.ClientSession, engine: Engine, prepared: PreparedRequest, reader: StreamReader
) -> AsyncGenerator[list[Fields], None]:
    """The pieces of a stream as they arrive, for `answers.write_pieces`. Raises the same errors as `whole_answer`.

    Ends when the engine signals the end, even if its connection stays open.
    """
    async with _called(http, engine, prepared) as answer:
        is_first = True
        async for chunk in answer.content.iter_any():
            if is_first and chunk.lstrip().startswith(b"{"):  # not a stream, but probably an error object
                read_answer(chunk + await _read(answer, _MAX_BYTES), prepared, prepared.tally())
                raise no_answer()
            is_first = False
            yield _alive(engine, reader.feed(chunk))
            if reader.is_over:
                break
        else:
            yield _alive(engine, reader.finish())
        if reader.failure is not None:
            raise reader.failure
        await _drained(answer)


def _alive(engine: Engine, pieces: list[Fields]) -> list[Fields]:
    if any(pieces):
        engine.activity.succeeded()
    return pieces


@asynccontextmanager
async def _called(
    http: aiohttp.ClientSession, engine: Engine, prepared: PreparedRequest
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Sends the request and yields the response. Raises EngineRefusalError if the engine rejects it."""
    url, headers, body = f"{engine.base_url}/{prepared.route}", _HEADERS | engine.headers, prepared.body
    try:
        answer = await http.post(url, data=body, headers=headers, allow_redirects=False)
    except _CLOSED:
        # The engine had just closed this kept-alive connection, so nothing was processed and the request can be
        # repeated. Use a new connection, since other kept-alive ones may be closed as well.
        async with engine_session(keep=False) as other:
            answer = await other.post(url, data=body, headers=headers, allow_redirects=False)
            async with answer:
                yield await _accepted(answer, prepared)
        return
    async with answer:
        yield await _accepted(answer, prepared)


async def _accepted(answer: aiohttp.ClientResponse, prepared: PreparedRequest) -> aiohttp.ClientResponse:
    if answer.status != HTTPStatus.OK:
        said = await _read(answer, _MAX_ERROR_BYTES)
        raise refused(answer.status, said, answer.headers, prepared.client_fields)
    return answer


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body. Raises EngineRefusalError if it is longer than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise no_answer()
    return b"".join(parts)


async def _drained(answer: aiohttp.ClientResponse) -> None:
    """Reads to the end, so that the connection can be reused; closes it if that takes too long."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            while await answer.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        answer.close()
