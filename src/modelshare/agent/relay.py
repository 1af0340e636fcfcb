"""Relays a request from the link to an engine on loopback, and its answer back.

The engine's `RelayPolicy` determines how requests are changed; this module transfers the bytes. Cancelling `serve`
closes the connection to the engine, which then stops working on the request.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

import aiohttp

from modelshare.agent.deployment import Serving
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest, RelayPolicy, prepare_request
from modelshare.agent.sequences import Sequences
from modelshare.agent.streams import Stream
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import BadInferenceRequestError

_log = logging.getLogger(__name__)

_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_LOADING: Final = "The model is being loaded on its machine; try again in a moment."


class EngineRelay:
    """`find` returns the engine that serves a deployment now, if any."""

    def __init__(self, http: aiohttp.ClientSession, find: Callable[[str], Serving | None]) -> None:
        self._http = http
        self._find = find

    async def serve(self, stream: Stream) -> None:
        """Answers one request, whatever happens; raises only CancelledError."""
        serving = self._find(stream.deployment_id)
        if serving is None:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            loading = EngineRefusalError(status, _LOADING, code=ErrorCode.MODEL_LOADING)
            await stream.refuse(status, _JSON, loading.envelope())
            return
        if stream.route not in serving.engine.routes:
            served = ", ".join(sorted(serving.engine.routes)) or "no route"
            await _break_off(
                stream, EngineRefusalError(HTTPStatus.NOT_FOUND, f"This model serves {served}, not {stream.route}.")
            )
            return
        sequences: Sequences | None = None
        try:
            async with asyncio.timeout(stream.timeout):
                prepared = await _prepared(stream, serving.policy)
                sequences = Sequences(self._http, serving.engine, stream.tenant, prepared)
                with serving.engine.activity.request():
                    await (_stream if prepared.asked.stream else _answer)(stream, sequences)
        except Exception as error:  # noqa: BLE001 - every error is answered: a client must never wait in vain
            await _break_off(stream, _told(error, stream), sequences.count.usage if sequences else TokenUsage())


async def _prepared(stream: Stream, policy: RelayPolicy) -> PreparedRequest:
    route, body = stream.route, bytes(stream.body)
    if policy.texts is None:
        return prepare_request(route, body, policy)
    return await asyncio.to_thread(prepare_request, route, body, policy)


async def _answer(stream: Stream, sequences: Sequences) -> None:
    await stream.answer(HTTPStatus.OK, _JSON, await sequences.whole(), sequences.count.usage)


async def _stream(stream: Stream, sequences: Sequences) -> None:
    async with aclosing(sequences.streamed()) as answer:
        async for data in answer:
            if not stream.started:
                await stream.head(HTTPStatus.OK, _EVENTS)
            await stream.chunk(data)
            if sequences.is_over:
                break
        # The counts are sent with the last bytes, so that they are recorded even if the client disconnects at once.
        await stream.end(sequences.count.usage)


def _told(error: Exception, stream: Stream) -> EngineRefusalError:
    """The error to send to the client."""
    match error:
        case EngineRefusalError():
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                _log.warning(
                    "The engine of deployment %s failed to answer a request: %d.", stream.deployment_id, error.status
                )
            return error
        case BadInferenceRequestError():
            return EngineRefusalError(HTTPStatus.BAD_REQUEST, str(error), param=error.param)
        case TimeoutError():
            return EngineRefusalError(HTTPStatus.GATEWAY_TIMEOUT, f"No complete answer within {stream.timeout:g} s.")
        case aiohttp.ClientConnectorError() if not stream.started:
            return EngineRefusalError(HTTPStatus.SERVICE_UNAVAILABLE, _LOADING, code=ErrorCode.MODEL_LOADING)
        case aiohttp.ClientError() | ConnectionError():
            _log.warning("The engine of deployment %s aborted its answer: %r", stream.deployment_id, error)
            return EngineRefusalError(HTTPStatus.BAD_GATEWAY, "The engine aborted its answer. Try again.")
        case _:
            _log.error("A request could not be relayed.", exc_info=error)
            return EngineRefusalError(
                HTTPStatus.BAD_GATEWAY, "The agent failed to process this request; see its log for details."
            )


async def _break_off(stream: Stream, why: EngineRefusalError, usage: TokenUsage = TokenUsage()) -> None:  # noqa: B008 - frozen
    """Reports an error, as the response or as the end of one that has started, with what was generated until then."""
    if stream.started:
        await stream.end(usage, str(why), why.status)
    else:
        await stream.answer(why.status, _JSON, why.envelope(), retry_after=why.retry_after)
