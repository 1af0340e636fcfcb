"""From a request on the link to an engine on loopback, and the answer back.

What is changed on the way is said by the engine's `RelayPolicy`; here is how the bytes move. Cancelling `serve` closes
the connection to the engine, which stops working on the request.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from modelshare.agent.deployment import Serving
from modelshare.agent.engines.base import Activity
from modelshare.agent.engines.relay_rules import (
    BadRequest,
    PreparedRequest,
    StreamRewriter,
    check_length,
    prepare_request,
    rewrite_answer,
    rewrite_error,
)
from modelshare.agent.streams import Stream
from modelshare.wire.errors import ErrorBody, ErrorCode, ErrorEnvelope, ErrorType

_log = logging.getLogger(__name__)

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream"
_HEADERS: Final = {"Content-Type": _JSON, "Accept-Encoding": "identity"}
_IDLE_SECONDS: Final = 3.0
"""Idle connections are given up before engines do so: uvicorn, the most impatient, waits 5 s."""
_CONNECT_SECONDS: Final = 5.0
_CLOSED: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""How a kept connection that was closed shows: on reading, on writing, and to a transport that is closing."""


def engine_session(*, keep: bool = True) -> aiohttp.ClientSession:
    """The HTTP client for engines. Connections are kept, if not told otherwise, and not counted: the server does."""
    kept: dict[str, Any] = {"keepalive_timeout": _IDLE_SECONDS} if keep else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, **kept),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        auto_decompress=False,
    )


class Relay:
    """`find` gives what serves a deployment now, if anything does."""

    def __init__(self, http: aiohttp.ClientSession, find: Callable[[str], Serving | None]) -> None:
        self._http = http
        self._find = find

    async def serve(self, stream: Stream) -> None:
        """Answer one request, whatever happens; raises only when cancelled."""
        serving = self._find(stream.deployment_id)
        if serving is None:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            await stream.refuse(status, _JSON, _envelope(status, _LOADING, ErrorCode.MODEL_LOADING))
            return
        if stream.route not in serving.engine.routes:
            served = ", ".join(sorted(serving.engine.routes)) or "no route"
            await _fail(stream, HTTPStatus.NOT_FOUND, f"This model serves {served}, not {stream.route}.")
            return
        try:
            async with asyncio.timeout(stream.timeout):
                with serving.engine.activity.request():
                    await self._relay(stream, serving)
        except BadRequest as bad:
            await _fail(stream, HTTPStatus.BAD_REQUEST, str(bad))
        except TimeoutError:
            await _break_off(stream, HTTPStatus.GATEWAY_TIMEOUT, f"No whole answer came within {stream.timeout:g} s.")
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
            await _break_off(stream, HTTPStatus.SERVICE_UNAVAILABLE, _LOADING, ErrorCode.MODEL_LOADING)
        except (aiohttp.ClientError, ConnectionError) as error:
            _log.warning("The engine of deployment %s broke off its answer: %r", stream.deployment_id, error)
            await _break_off(stream, HTTPStatus.BAD_GATEWAY, "The engine broke off its answer; try again.")
        except Exception:  # noqa: BLE001 - logged and answered: a client must never wait for nothing
            _log.exception("A request could not be relayed.")
            await _break_off(
                stream, HTTPStatus.BAD_GATEWAY, "The agent failed on this request; its log has the details."
            )

    async def _relay(self, stream: Stream, serving: Serving) -> None:
        prepared = prepare_request(bytes(stream.body), serving.policy)
        try:
            await self._ask(self._http, stream, serving, prepared)
        except _CLOSED:
            if stream.started:
                raise
            # A kept connection that the engine closed just now: nothing was answered, so it may be asked anew.
            # Not through another kept one, which it may have closed as well.
            async with engine_session(keep=False) as http:
                await self._ask(http, stream, serving, prepared)

    async def _ask(
        self, http: aiohttp.ClientSession, stream: Stream, serving: Serving, prepared: PreparedRequest
    ) -> None:
        engine, policy = serving.engine, serving.policy
        url = f"{engine.base_url}/{stream.route}"
        headers = _HEADERS | engine.headers
        async with http.post(url, data=prepared.body, headers=headers, allow_redirects=False) as answer:
            if answer.status != HTTPStatus.OK:
                status, said = _status_to_pass(answer.status), await answer.read()
                check_length(said, policy)
                await stream.answer(status, _JSON, rewrite_error(status, said, policy))
            elif answer.content_type == _EVENTS:
                rewriter = StreamRewriter(policy, hide_usage=prepared.hide_usage)
                await _pass_events(stream, answer.content, rewriter, engine.activity)
            else:
                body, usage = rewrite_answer(await answer.read(), policy)
                engine.activity.succeeded()
                await stream.answer(HTTPStatus.OK, _JSON, body, usage.prompt_tokens, usage.completion_tokens)


_LOADING: Final = "The model is being loaded on its machine; try again in a moment."


async def _pass_events(
    stream: Stream, content: aiohttp.StreamReader, rewriter: StreamRewriter, activity: Activity
) -> None:
    await stream.head(HTTPStatus.OK, f"{_EVENTS}; charset=utf-8")
    async for chunk in content.iter_any():
        activity.succeeded()
        if data := rewriter.feed(chunk):
            await stream.chunk(data)
    if data := rewriter.finish():
        await stream.chunk(data)
    await stream.end(None, rewriter.usage.prompt_tokens, rewriter.usage.completion_tokens)


def _status_to_pass(status: int) -> int:
    """The engine's own status, where it speaks about the request. Its secret and its routes are our affair."""
    if (
        status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
        or status < HTTPStatus.BAD_REQUEST
    ):
        return HTTPStatus.BAD_GATEWAY
    return status


async def _break_off(stream: Stream, status: HTTPStatus, message: str, code: ErrorCode | None = None) -> None:
    if stream.started:
        await stream.end(message)
    else:
        await _fail(stream, status, message, code)


async def _fail(stream: Stream, status: HTTPStatus, message: str, code: ErrorCode | None = None) -> None:
    await stream.answer(status, _JSON, _envelope(status, message, code))


def _envelope(status: HTTPStatus, message: str, code: ErrorCode | None) -> bytes:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = ErrorType.SERVER
    elif status == HTTPStatus.NOT_FOUND:
        kind = ErrorType.NOT_FOUND
    else:
        kind = ErrorType.INVALID_REQUEST
    return ErrorEnvelope(error=ErrorBody(message=message, type=kind, code=code)).model_dump_json().encode()
