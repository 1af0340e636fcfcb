"""Relays a request from the link to an engine on loopback, and its answer back.

The engine's `RelayPolicy` determines how requests are changed; this module transfers the bytes, by callbacks: a frame
in, bytes to the engine, bytes back, a frame out. When a request is cancelled, the connection to the engine closes, and
the engine stops working on it.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from modelshare.agent.deployment import Serving
from modelshare.agent.engine_pool import EngineLostError, EnginePool, EngineUnreachableError
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest, prepare_request
from modelshare.agent.sequences import Sequences
from modelshare.agent.streams import Stream
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import BadInferenceRequestError

_log = logging.getLogger(__name__)

_OK: Final = 200
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_LOADING: Final = "The model is being loaded on its machine; try again in a moment."
_SWEEP_SECONDS: Final = 0.25
"""How often time limits are checked."""
_BUFFER_BYTES: Final = 1 << 20
"""How far an engine may be ahead of its client. This frees the engine's slot as soon as the engine is done."""
_STALLED_SECONDS: Final = 30.0
"""How long a client that reads nothing may occupy a slot that others wait for."""


class EngineRelay:
    """`find` returns the engine that serves a deployment now, if any."""

    def __init__(self, pool: EnginePool, find: Callable[[str], Serving | None]) -> None:
        self._pool = pool
        self._find = find
        self._open: set[_Exchange] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def serve(self, stream: Stream) -> None:
        """Begins to answer a request. Every one is answered, whatever happens: a client must never wait in vain."""
        try:
            serving = self._find(stream.deployment_id)
            if serving is None:
                status = HTTPStatus.SERVICE_UNAVAILABLE
                loading = EngineRefusalError(status, _LOADING, code=ErrorCode.MODEL_LOADING)
                stream.refuse(status, _JSON, loading.envelope())
            elif stream.route not in serving.engine.routes:
                served = ", ".join(sorted(serving.engine.routes)) or "no route"
                missing = EngineRefusalError(HTTPStatus.NOT_FOUND, f"This model serves {served}, not {stream.route}.")
                _send_error(stream, missing)
            else:
                exchange = _Exchange(stream, serving, self._pool, self._open.discard)
                self._open.add(exchange)
                if self._sweep is None:
                    self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._check_time)
                exchange.start()
        except Exception as error:  # noqa: BLE001 - it must not end the link
            _send_error(stream, _client_error(error, stream))

    def _check_time(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_SWEEP_SECONDS, self._check_time) if self._open else None
        now = loop.time()
        for exchange in list(self._open):
            exchange.check_time(now)


class _Exchange:
    """One request and its answer. Implements `sequences.Output`."""

    def __init__(
        self, stream: Stream, serving: Serving, pool: EnginePool, on_over: Callable[["_Exchange"], None]
    ) -> None:
        self._stream = stream
        self._serving = serving
        self._pool = pool
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + stream.timeout
        self._sequences: Sequences | None = None
        serving.engine.activity.begin_request()
        self._is_over = False
        self._stalled_since: float | None = None
        """When the client read something for the last time, while the engine is too far ahead of it."""
        stream.on_over = self._over
        stream.on_sent = self._sent

    def start(self) -> None:
        stream, policy = self._stream, self._serving.policy
        if policy.texts is not None:  # slow
            work = self._loop.run_in_executor(None, prepare_request, stream.route, bytes(stream.body), policy)
            work.add_done_callback(self._prepared_elsewhere)
            return
        try:
            self._ask(prepare_request(stream.route, bytes(stream.body), policy))
        except Exception as error:  # noqa: BLE001 - every error is answered
            self.on_failure(error)

    def check_time(self, now: float) -> None:
        """Ends what is out of time, and what holds up others because its client does not read."""
        if now >= self._deadline:
            self.on_failure(TimeoutError())
        elif (
            self._stalled_since is not None
            and now >= self._stalled_since + _STALLED_SECONDS
            and self._sequences is not None
            and self._sequences.is_slowing_others
        ):
            why = "The client read the answer too slowly while others were waiting."
            self.on_failure(EngineRefusalError(HTTPStatus.REQUEST_TIMEOUT, why))

    def on_answer(self, body: bytes, usage: TokenUsage) -> None:
        """See `sequences.Output`."""
        self._stream.answer(_OK, _JSON, body, usage)

    def on_events(self, events: bytes) -> None:
        """See `sequences.Output`."""
        stream = self._stream
        if not stream.started:
            stream.head(_OK, _EVENTS)
        stream.chunk(events)
        if stream.waiting_bytes >= _BUFFER_BYTES and self._sequences is not None:
            self._sequences.pause()
            if self._stalled_since is None:
                self._stalled_since = self._loop.time()

    def on_end(self, events: bytes, usage: TokenUsage) -> None:
        """See `sequences.Output`."""
        self._stalled_since = None
        if not self._stream.started:
            self._stream.head(_OK, _EVENTS)
        # The counts are sent with the last bytes, so that they are recorded even if the client disconnects at once.
        self._stream.chunk(events)
        self._stream.end(usage)

    def on_failure(self, error: Exception) -> None:
        """See `sequences.Output`."""
        if self._is_over:
            return
        usage = TokenUsage()
        if self._sequences is not None:
            self._sequences.close()
            usage = self._sequences.count.usage
        self._stalled_since = None
        if isinstance(error, TimeoutError):
            self._stream.drop_waiting()
        _send_error(self._stream, _client_error(error, self._stream), usage)

    def _prepared_elsewhere(self, work: asyncio.Future[PreparedRequest]) -> None:
        try:
            prepared = work.result()
            if not self._is_over:
                self._ask(prepared)
        except Exception as error:  # noqa: BLE001 - every error is answered
            self.on_failure(error)

    def _ask(self, prepared: PreparedRequest) -> None:
        self._sequences = Sequences(self._pool, self._serving.engine, self._stream.tenant, prepared, self)
        self._sequences.start()

    def _sent(self) -> None:
        """The client has read something."""
        if self._stalled_since is None:
            return
        if self._stream.waiting_bytes < _BUFFER_BYTES and self._sequences is not None:
            self._stalled_since = None
            self._sequences.resume()
        else:
            self._stalled_since = self._loop.time()

    def _over(self) -> None:
        """The answer was sent, or nobody waits for it any more."""
        self._is_over = True
        if self._sequences is not None:
            self._sequences.close()
            self._sequences = None
        self._serving.engine.activity.end_request()
        self._on_over(self)


def _client_error(error: Exception, stream: Stream) -> EngineRefusalError:
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
        case EngineUnreachableError() if not stream.started:
            return EngineRefusalError(HTTPStatus.SERVICE_UNAVAILABLE, _LOADING, code=ErrorCode.MODEL_LOADING)
        case EngineUnreachableError() | EngineLostError():
            _log.warning("The engine of deployment %s aborted its answer: %r", stream.deployment_id, error)
            return EngineRefusalError(HTTPStatus.BAD_GATEWAY, "The engine aborted its answer. Try again.")
        case _:
            _log.error("A request could not be relayed.", exc_info=error)
            return EngineRefusalError(
                HTTPStatus.BAD_GATEWAY, "The agent failed to process this request; see its log for details."
            )


def _send_error(stream: Stream, why: EngineRefusalError, usage: TokenUsage = TokenUsage()) -> None:  # noqa: B008 - frozen
    """Reports an error, as the response or as the end of one that has started, with what was generated until then."""
    if stream.started:
        stream.end(usage, str(why), why.status)
    else:
        stream.answer(why.status, _JSON, why.envelope(), retry_after=why.retry_after)
