"""Splits one request into calls to an engine, each in its tenant's turn, and combines their answers."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final, Protocol

import msgspec

from modelshare.agent.engine_call import AnswerCall, StreamCall
from modelshare.agent.engine_pool import EngineCall, EnginePool
from modelshare.agent.engines.answers import write_answer, write_pieces
from modelshare.agent.engines.base import Engine, Period
from modelshare.agent.engines.collector import AnswerCollector
from modelshare.agent.engines.counts import Tally, TokenUsage
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.parts import StreamMerger, Subrequest, UsageCount, join, split
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest
from modelshare.agent.engines.sharing import PromptCache, TooManyWaitingError, Turn
from modelshare.agent.engines.translator import StreamTranslator
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import InferenceRequest

_USUAL_TOKENS: Final = 512
"""Assumed length of an answer without a limit."""
_RETRY_SECONDS: Final = 5


def unstreamed_tokens(asked: InferenceRequest) -> int:
    """About how many tokens an engine may generate before the first byte of its answer."""
    return 0 if asked.stream or not asked.generates else asked.max_tokens or _USUAL_TOKENS


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
    """The calls for one request, already prepared for its engine. Ends with one call of `output`, or with `close`."""

    def __init__(
        self, pool: EnginePool, engine: Engine, tenant: str, prepared: PreparedRequest, output: Output
    ) -> None:
        self.count = UsageCount()
        self._pool = pool
        self._engine = engine
        self._tenant = tenant
        self._prepared = prepared
        self._output = output
        self._parts = split(prepared) if engine.sharing.one_by_one else [Subrequest(prepared)]
        self._sequences: list[_Sequence] = []
        self._left = len(self._parts)
        self._answers: dict[int, Fields] = {}
        self._merger = StreamMerger()
        self._is_over = False

    def start(self) -> None:
        """Begins all calls whose turn it is."""
        try:
            for part in self._parts:
                if self._is_over:
                    return
                sequence = _Sequence(self._engine, self._tenant, part)
                self._sequences.append(sequence)
                sequence.wait(partial(self._begin, sequence))
        except TooManyWaitingError:
            self._fail(
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
        if self._is_over:
            return
        self._is_over = True
        for sequence in reversed(self._sequences):  # those that wait first: they must not get the others' slots
            sequence.close()

    @property
    def is_slowing_others(self) -> bool:
        """Whether other tenants wait for the engine."""
        return not self._is_over and self._engine.turns.others_wait(self._tenant)

    def pause(self) -> None:
        """Stops reading what the engine generates."""
        for sequence in self._sequences:
            if sequence.call is not None:
                sequence.call.pause()

    def resume(self) -> None:
        for sequence in self._sequences:
            if sequence.call is not None:
                sequence.call.resume()

    def _begin(self, sequence: "_Sequence", turn: Turn) -> None:
        sequence.turn = turn
        if self._is_over:
            turn.close()
            return
        try:
            self._send(sequence, turn)
        except Exception as error:  # noqa: BLE001 - told to the output, which knows what to make of it
            self._fail(error)

    def _send(self, sequence: "_Sequence", turn: Turn) -> None:
        engine, prepared = self._engine, sequence.part.prepared
        fields = engine.sharing.fields(self._tenant, turn)
        if fields:
            prepared = msgspec.structs.replace(prepared, fields=prepared.fields | fields)
        tally = sequence.begin(self.count)
        call: EngineCall
        ended: Callable[[], None]
        if prepared.asked.stream:
            translator = StreamTranslator(prepared, tally, partial(self._events, sequence.part))
            ended = partial(self._streamed, sequence)
            call = StreamCall(prepared, translator, engine.activity, self._output.on_events, ended, self._fail)
        elif prepared.policy.ends_streams_only:
            collector = AnswerCollector(prepared, tally)
            ended = partial(self._collected, sequence, collector)
            call = StreamCall(prepared, collector, engine.activity, self._output.on_events, ended, self._fail)
        else:
            call = AnswerCall(prepared, tally, engine.activity, partial(self._answered, sequence), self._fail)
        sequence.call = call
        self._pool.send(call, engine.base_url, prepared.route, engine.headers, prepared.body)

    def _events(self, part: Subrequest, pieces: list[Fields]) -> bytes:
        merged = self._merger.pieces(part, pieces)
        return write_pieces(merged) if self._merger.began else b""  # before that, the HTTP status reports a failure

    def _answered(self, sequence: "_Sequence", answer: Fields) -> None:
        sequence.close()
        self._answers[sequence.part.first] = answer
        self._left -= 1
        if not self._left:
            answers = [self._answers[part.first] for part in self._parts]
            body = write_answer(join(self._parts, answers), self.count.for_client())
            self._is_over = True
            self._output.on_answer(body, self.count.usage)

    def _collected(self, sequence: "_Sequence", collector: AnswerCollector) -> None:
        self._answered(sequence, collector.answer())

    def _streamed(self, sequence: "_Sequence") -> None:
        sequence.close()
        self._left -= 1
        if not self._left:
            events = self._merger.end(self._prepared, self.count.for_client())
            self._is_over = True
            self._output.on_end(events, self.count.usage)

    def _fail(self, error: Exception) -> None:
        """The first failure ends all calls."""
        if not self._is_over:
            self.close()
            self._output.on_failure(error)


class _Sequence:
    """One part of a request: its turn, and its call."""

    def __init__(self, engine: Engine, tenant: str, part: Subrequest) -> None:
        self.part = part
        self.call: EngineCall | None = None
        self._engine = engine
        self._tenant = tenant
        self.turn: Turn | None = None
        self._tally: Tally | None = None
        self._asking: Period | None = None
        self._prompt = part.prepared.prompt

    def wait(self, begin: Callable[[Turn], None]) -> None:
        """Calls `begin` when it is the sequence's turn. Raises TooManyWaitingError."""
        is_compared = self._engine.sharing.cache is PromptCache.SLOTS
        prompt = bytes(self._prompt) if is_compared else b""
        self.turn = self._engine.turns.turn(self._tenant, self.part.prepared.asked.turns, prompt, begin)

    def begin(self, count: UsageCount) -> Tally:
        """The call is about to begin; returns the counter for its answer."""
        prepared = self.part.prepared
        unstreamed = 0 if prepared.policy.ends_streams_only else unstreamed_tokens(prepared.asked)
        self._tally = count.begin(self.part)
        self._asking = self._engine.activity.asking(len(self._prompt), unstreamed)
        return self._tally

    def close(self) -> None:
        """Ends the call and the turn."""
        if self.call is not None:
            self.call.close()
            self.call = None
        if self._asking is not None:
            self._asking.close()
        if self.turn is not None:
            self.turn.worked = self._tally is not None and self._tally.began
            self.turn.close()
            self.turn = None  # it refers to this
