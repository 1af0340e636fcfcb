"""Builds a complete answer from a stream. Pure."""

from typing import Any

import msgspec

from modelshare.agent.engines.answers import StreamConsumer
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.refusals import invalid_answer
from modelshare.agent.engines.relay_rules import PreparedRequest


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


_decode_choices = msgspec.json.Decoder(list[_Choice]).decode


class AnswerCollector(StreamConsumer):
    """Collects the stream of one sequence: nothing is passed on before its end."""

    def __init__(self, prepared: PreparedRequest, tally: Tally) -> None:
        super().__init__(prepared, tally)
        self._is_chat = prepared.route == "chat/completions"
        self._pieces: list[Fields] = []

    def _take(self, pieces: list[Fields]) -> bytes:
        self._pieces += filter(None, pieces)
        return b""

    def answer(self) -> Fields:
        """The complete answer, for `answers.write_answer`. Raises EngineRefusalError if it is invalid."""
        try:
            choices = [choice for piece in self._pieces for choice in _decode_choices(piece["choices"])]
        except msgspec.DecodeError as error:
            raise invalid_answer() from error
        if not choices:
            raise invalid_answer()
        reason = next((choice.finish_reason for choice in reversed(choices) if choice.finish_reason), "stop")
        generated: dict[str, Any] = (
            {"message": _message([choice.delta for choice in choices if choice.delta])}
            if self._is_chat
            else {"text": "".join(choice.text or "" for choice in choices), "logprobs": None}
        )
        return self._pieces[0] | {
            "object": _raw("chat.completion" if self._is_chat else "text_completion"),
            "choices": _raw([{"index": 0, **generated, "finish_reason": reason}]),
        }


def _message(deltas: list[_Delta]) -> dict[str, Any]:
    content = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(delta.reasoning_content or "" for delta in deltas)
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    return {
        "role": "assistant",
        "content": content if content or not calls else None,
        **({"reasoning_content": reasoning} if reasoning else {}),
        **({"tool_calls": [{name: call[name] for name in call if name != "index"} for call in calls]} if calls else {}),
    }


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
