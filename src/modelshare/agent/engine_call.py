"""The calls to an engine for one sequence: its complete answer, or its stream."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

from modelshare.agent.engine_pool import EngineCall
from modelshare.agent.engines.answers import StreamConsumer, read_answer
from modelshare.agent.engines.base import Activity
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.refusals import invalid_answer, refusal_for_status
from modelshare.agent.engines.relay_rules import PreparedRequest

_OK: Final = 200
_MAX_BYTES: Final = 512 << 20
"""Maximum size of an answer; many vectors are long."""
_MAX_ERROR_BYTES: Final = 64 << 10


class _Call(EngineCall):
    """What both kinds of calls have in common: bodies that are read as a whole, and refusals."""

    def __init__(self, prepared: PreparedRequest, activity: Activity, on_failure: Callable[[Exception], None]) -> None:
        super().__init__()
        self._prepared = prepared
        self._activity = activity
        self._fail = on_failure
        self._status = 0
        self._retry_after: bytes | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status
        self._retry_after = headers.get(b"retry-after")

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > (_MAX_BYTES if self._status == _OK else _MAX_ERROR_BYTES):
            raise invalid_answer()

    def on_end(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._status != _OK:
            headers = {} if self._retry_after is None else {"Retry-After": self._retry_after.decode("latin-1")}
            raise refusal_for_status(self._status, body, headers, self._prepared.client_fields)
        self._on_answer(body)

    def on_failure(self, error: Exception) -> None:
        self._fail(error)

    @abstractmethod
    def _on_answer(self, body: bytes) -> None:
        """The complete body of a success response that is not a stream."""


class AnswerCall(_Call):
    """A complete answer, for `answers.write_answer`."""

    def __init__(
        self,
        prepared: PreparedRequest,
        tally: Tally,
        activity: Activity,
        on_answer: Callable[[Fields], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        super().__init__(prepared, activity, on_failure)
        self._tally = tally
        self._answer = on_answer

    def _on_answer(self, body: bytes) -> None:
        fields = read_answer(body, self._prepared, self._tally)
        self._activity.succeeded()
        self._answer(fields)


class StreamCall(_Call):
    """A stream. It is over when the engine signals the end, even if its connection stays open."""

    def __init__(
        self,
        prepared: PreparedRequest,
        consumer: StreamConsumer,
        activity: Activity,
        on_events: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        super().__init__(prepared, activity, on_failure)
        self._consumer = consumer
        self._events = on_events
        self._end = on_end
        self._is_stream = False

    def on_body(self, data: bytes) -> None:
        if not self._is_stream:
            # A JSON object instead of a stream is probably an error.
            if self._status != _OK or self._parts or data.lstrip().startswith(b"{"):
                super().on_body(data)
                return
            self._is_stream = True
        self._pass_on(self._consumer.feed(data))
        if self._consumer.is_over:
            self._over()

    def on_end(self) -> None:
        if self._status != _OK or self._parts:
            super().on_end()
            return
        self._pass_on(self._consumer.finish())
        self._over()

    def _pass_on(self, events: bytes) -> None:
        if self._consumer.progressed:
            self._activity.succeeded()
        if events:
            self._events(events)

    def _over(self) -> None:
        if self._consumer.failure is not None:
            raise self._consumer.failure
        self.finish()
        self._end()

    def _on_answer(self, body: bytes) -> None:
        read_answer(body, self._prepared, self._prepared.tally())
        raise invalid_answer()
