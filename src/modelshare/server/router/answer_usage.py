"""Counts the tokens of one answer, by the agent's report or by an estimate."""

from typing import Final

import structlog

from modelshare.server.router.metering import MeteredUsage
from modelshare.wire.inference import InferenceRequest, most_tokens, tokens_in
from modelshare.wire.link import Answer, End

log = structlog.get_logger()
_OK: Final = 200


class AnswerUsage:
    """The usage of one answer."""

    def __init__(self, request: InferenceRequest, request_bytes: int) -> None:
        self.status = _OK
        """Of the engine's answer, as far as it is known."""
        self.context_length: int | None = None
        """The model's, in tokens, if known."""
        self.version = ""
        """The version that was asked; empty before."""
        self.is_engine_busy = False
        """Whether an engine may be working on the request."""
        self.answer_bytes = 0
        self._request = request
        self._request_bytes = request_bytes
        self._events = 0
        self._reported: MeteredUsage | None = None

    def add_events(self, data: bytes, *, is_end: bool) -> None:
        """Counts the events that begin in a part of a stream. `is_end`: the last one is not an event.

        `data:` inside a text is JSON-encoded and so never at the start of a line.
        """
        self._events += data.startswith(b"data:") + data.count(b"\ndata:") - is_end

    def report(self, frame: Answer | End) -> None:
        """The agent's count."""
        self.is_engine_busy = False
        if self.status != _OK:
            self._reported = MeteredUsage(version=self.version)
            return
        if not frame.prompt_tokens and not frame.completion_tokens:
            return  # the engine did not count
        most_prompt, most_completion = self._limits()
        if frame.prompt_tokens <= most_prompt and frame.completion_tokens <= most_completion:
            self._reported = MeteredUsage(
                frame.prompt_tokens, frame.completion_tokens, is_estimate=frame.estimated, version=self.version
            )
            return
        log.warning(
            "an agent reports more tokens than the request can have",
            prompt_tokens=frame.prompt_tokens,
            completion_tokens=frame.completion_tokens,
        )

    def total(self, *, has_started: bool) -> MeteredUsage:
        """The agent's count, or an estimate if that is missing or impossible, also for a truncated answer.

        `has_started`: a part of the answer was sent. If the client disconnected before that, only the prompt is
        counted: the engine's progress is unknown.
        """
        if self._reported is not None:
            return self._reported
        if self.status != _OK or not (has_started or self.is_engine_busy):
            return MeteredUsage(version=self.version)
        most_prompt, most_completion = self._limits()
        prompt = min(tokens_in(self._request_bytes), most_prompt)
        completion = min(self._events or tokens_in(self.answer_bytes), most_completion)
        return MeteredUsage(prompt, completion, is_estimate=True, version=self.version)

    def _limits(self) -> tuple[int, int]:
        return most_tokens(self._request, self._request_bytes, self.context_length)
