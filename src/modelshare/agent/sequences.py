"""Splits one request into calls to an engine, each in its tenant's turn, and combines their answers."""

from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

from modelshare.agent.engine_call import SequenceCall
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engines.answers import StreamConsumer, write_answer, write_pieces
from modelshare.agent.engines.base import Engine
from modelshare.agent.engines.collector import AnswerCollector
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.parts import StreamMerger, Subrequest, UsageCount, join, split
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest
from modelshare.agent.engines.sharing import PromptCache, TooManyWaitingError, Turn
from modelshare.agent.engines.translator import StreamTranslator
from modelshare.wire.errors import ErrorCode

_RETRY_SECONDS: Final = 5


class Output(Protocol):
    """Takes the answer to a request."""

    def on_answer(self, body: bytes, usage: TokenUsage) -> None:
        """The complete answer to a request that asked for no stream."""

    def on_events(self, events: bytes) -> None:
        """Events of a stream."""

    def on_end(self, events: bytes, usage: TokenUsage) -> None:
        """The last events of a stream."""

    def on_failure(self, error: Exception) -> None:
        """The request failed: an EngineRefusalError, EngineUnreachableError or EngineLostError, or a fault of ours."""


class Sequences:
    """The calls for one request, already prepared for its engine. Ends with one call of `output`, or with `close`.

    Implements `engine_call.SequenceOutput`.
    """

    def __init__(
        self, pool: EnginePool, engine: Engine, tenant: str, prepared: PreparedRequest, output: Output
    ) -> None:
        self.count = UsageCount()
        self._pool = pool
        self._engine = engine
        self._tenant = tenant
        self._prepared = prepared
        self._output = output
        is_split = engine.sharing.one_by_one
        self._parts = split(prepared) if is_split else [Subrequest(prepared)]
        self._turns_each = 1 if is_split else prepared.asked.turns
        self._open: dict[Turn, SequenceCall | None] = {}
        """The turns that wait (without a call) or run, in the order of their parts."""
        self._left = len(self._parts)
        self._answers: dict[int, Fields] = {}
        self._merger = StreamMerger()
        self._is_over = False

    def start(self) -> None:
        """Begins all calls whose turn it is."""
        is_compared = self._engine.sharing.cache is PromptCache.SLOTS
        try:
            for part in self._parts:
                if self._is_over:
                    return
                prompt = bytes(part.prepared.prompt) if is_compared else b""
                begin = partial(self._begin, part)
                turn = self._engine.turns.turn(self._tenant, self._turns_each, prompt, begin)
                if not turn.held:
                    self._open[turn] = None
        except TooManyWaitingError:
            self.on_failure(
                EngineRefusalError(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "Too many requests of your project are waiting for this model. Try again when some of them have "
                    "finished.",
                    code=ErrorCode.CAPACITY_EXCEEDED,
                    retry_after=_RETRY_SECONDS,
                )
            )

    def close(self) -> None:
        """Ends all calls; the engine stops working on them."""
        self._is_over = True
        while self._open:  # the last ones first, which may wait: they must not get the others' slots
            turn, call = self._open.popitem()
            if call is None:
                turn.close()
            else:
                call.end()

    @property
    def is_slowing_others(self) -> bool:
        """Whether other tenants wait for the engine."""
        return not self._is_over and self._engine.turns.others_wait(self._tenant)

    def pause(self) -> None:
        """Stops reading what the engine generates."""
        for call in self._open.values():
            if call is not None:
                call.pause()

    def resume(self) -> None:
        for call in self._open.values():
            if call is not None:
                call.resume()

    def on_answer(self, call: SequenceCall, answer: Fields) -> None:
        """See `engine_call.SequenceOutput`."""
        self._end(call)
        self._answers[call.part.first] = answer
        if not self._left:
            if len(self._parts) > 1:
                answer = join(self._parts, [self._answers[part.first] for part in self._parts])
            body = write_answer(answer, self.count.for_client())
            self._is_over = True
            self._output.on_answer(body, self.count.usage)

    def on_stream_end(self, call: SequenceCall, consumer: StreamConsumer) -> None:
        """See `engine_call.SequenceOutput`."""
        if isinstance(consumer, AnswerCollector):
            self.on_answer(call, consumer.answer())
            return
        self._end(call)
        if not self._left:
            events = self._merger.end(self._prepared, self.count.for_client())
            self._is_over = True
            self._output.on_end(events, self.count.usage)

    def on_failure(self, error: Exception) -> None:
        """See `engine_call.SequenceOutput`. The first failure ends all calls."""
        if not self._is_over:
            self.close()
            self._output.on_failure(error)

    def _begin(self, part: Subrequest, turn: Turn) -> None:
        """It is the part's turn."""
        if self._is_over:
            turn.close()
            return
        self._open[turn] = None
        engine, prepared = self._engine, part.prepared
        try:
            body = prepared.body(engine.sharing.fields(self._tenant, turn))
            tally = self.count.begin(part)
            consumer: StreamConsumer | None = None
            if prepared.asked.stream:
                consumer = StreamTranslator(prepared, tally, partial(self._written, part))
            elif prepared.policy.ends_streams_only:
                consumer = AnswerCollector(prepared, tally)
            on_events = self._output.on_events
            call = self._open[turn] = SequenceCall(part, turn, tally, consumer, engine.activity, self, on_events)
            self._pool.send(call, engine.base_url, prepared.route, engine.headers, body)
        except Exception as error:  # noqa: BLE001 - told to the output, which knows what to make of it
            self.on_failure(error)

    def _written(self, part: Subrequest, pieces: list[Fields]) -> bytes:
        """Events for the client."""
        merged = self._merger.pieces(part, pieces)
        return write_pieces(merged) if self._merger.began else b""  # before that, the HTTP status reports a failure

    def _end(self, call: SequenceCall) -> None:
        """The engine has done its part."""
        del self._open[call.turn]
        call.end()
        self._left -= 1
