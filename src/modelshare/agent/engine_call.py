"""The call to an engine for one sequence: its complete answer, or its stream."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from modelshare.agent.engine_pool import EngineCall
from modelshare.agent.engines.answers import StreamConsumer, read_answer
from modelshare.agent.engines.base import Activity
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.parts import Subrequest
from modelshare.agent.engines.refusals import invalid_answer, refusal_for_status
from modelshare.agent.engines.sharing import Turn
from modelshare.wire.inference import InferenceRequest

_OK: Final = 200
_MAX_BYTES: Final = 512 << 20
"""Maximum size of an answer; many vectors are long."""
_MAX_ERROR_BYTES: Final = 64 << 10
_USUAL_TOKENS: Final = 512
"""Assumed length of an answer without a limit."""


def unstreamed_tokens(asked: InferenceRequest) -> int:
    """About how many tokens an engine may generate before the first byte of its answer."""
    return 0 if asked.stream or not asked.generates else asked.max_tokens or _USUAL_TOKENS


class SequenceOutput(Protocol):
    """Takes what the engine returns for the sequences of a request."""

    def on_answer(self, call: "SequenceCall", answer: Fields) -> None:
        """A complete answer, for `answers.write_answer`."""

    def on_stream_end(self, call: "SequenceCall", consumer: StreamConsumer) -> None:
        """A stream is complete."""

    def on_failure(self, error: Exception) -> None:
        """The call failed."""


class SequenceCall(EngineCall):
    """The call to an engine for one part of a request, in its turn: for a complete answer, or for a stream.

    A stream is over when the engine signals the end, even if its connection stays open.
    """

    def __init__(
        self,
        part: Subrequest,
        turn: Turn,
        tally: Tally,
        consumer: StreamConsumer | None,
        activity: Activity,
        output: SequenceOutput,
        on_events: Callable[[bytes], None],
    ) -> None:
        """Counts as a call of the engine from here until `end`, which has to follow.

        `consumer` takes the stream if the engine is asked for one; `on_events` takes its events for the client.
        """
        prepared = part.prepared
        unstreamed = 0 if prepared.policy.ends_streams_only else unstreamed_tokens(prepared.asked)
        self.part = part
        self.turn = turn
        self._tally = tally
        self._consumer = consumer
        self._activity = activity
        self._patience = activity.begin_call(tally.prompt_bytes, unstreamed)
        self._output = output
        self._on_events = on_events
        self._status = 0
        self._retry_after: bytes | None = None
        self._is_stream = False
        self._parts: list[bytes] = []
        """Of a body that is read as a whole."""
        self._size = 0

    def end(self) -> None:
        """Ends the call and the turn; only once."""
        self.close()
        self._activity.end_call(self._patience)
        self.turn.worked = self._tally.began
        self.turn.close()

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status
        self._retry_after = headers.get(b"retry-after")

    def on_body(self, data: bytes) -> None:
        consumer = self._consumer
        if consumer is not None and (self._is_stream or self._is_event(data)):
            self._is_stream = True
            self._pass_on(consumer, consumer.feed(data))
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > (_MAX_BYTES if self._status == _OK else _MAX_ERROR_BYTES):
            raise invalid_answer()

    def on_end(self) -> None:
        consumer, prepared = self._consumer, self.part.prepared
        if consumer is not None and self._status == _OK and not self._parts:
            self._pass_on(consumer, consumer.finish())
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._status != _OK:
            headers = {} if self._retry_after is None else {"Retry-After": self._retry_after.decode("latin-1")}
            raise refusal_for_status(self._status, body, headers, prepared.client_fields)
        if consumer is not None:
            read_answer(body, prepared, prepared.tally())
            raise invalid_answer()
        answer = read_answer(body, prepared, self._tally)
        self._activity.succeeded()
        self._output.on_answer(self, answer)

    def on_failure(self, error: Exception) -> None:
        self._output.on_failure(error)

    def _is_event(self, data: bytes) -> bool:
        """Whether a stream begins here. A JSON object instead of one is probably an error."""
        return self._status == _OK and not self._parts and not data.lstrip().startswith(b"{")

    def _pass_on(self, consumer: StreamConsumer, events: bytes) -> None:
        if consumer.progressed:
            self._activity.succeeded()
        if events:
            self._on_events(events)
        if consumer.is_over and not self.is_closed:
            if consumer.failure is not None:
                raise consumer.failure
            self.finish()
            self._output.on_stream_end(self, consumer)
