"""A complete answer from an engine that is asked for a stream."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines import parameters
from modelshare.agent.engines.answers import write_answer
from modelshare.agent.engines.collector import AnswerCollector
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest, RelayPolicy, prepare_request

CHAT, COMPLETIONS = "chat/completions", "completions"
POLICY = RelayPolicy(
    public_name="acme/tiny",
    request_model=None,
    supports=parameters.TRANSFORMERS,
    usage_on_request=False,
    ends_streams_only=True,
)
USAGE = {"prompt_tokens": 3, "completion_tokens": 40}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def request(route: str = CHAT) -> PreparedRequest:
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if route == CHAT else {"prompt": "Hi"}
    return prepare_request(route, json.dumps(asked).encode(), POLICY)


def events(route: str, *choices: dict[str, Any]) -> bytes:
    kind = "chat.completion.chunk" if route == CHAT else "text_completion"
    chunks: list[dict[str, Any]] = [
        {"id": "1", "object": kind, "model": "/x", "choices": [choice]} for choice in choices
    ]
    chunks[-1]["usage"] = USAGE
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)


def collected(route: str, *chunks: bytes) -> tuple[dict[str, Any], TokenUsage]:
    asked = request(route)
    tally = asked.tally()
    collector = AnswerCollector(asked, tally)
    assert b"".join([*map(collector.feed, chunks), collector.finish()]) == b""
    if collector.failure is not None:
        raise collector.failure
    return json.loads(write_answer(collector.answer(), tally.for_client())), tally.usage


def test_the_engine_is_asked_for_a_stream_and_the_client_is_not_given_one() -> None:
    assert json.loads(request().body({}))["stream"] is True
    assert not request().asked.stream


@given(st.lists(st.text()), st.sampled_from([CHAT, COMPLETIONS]), st.sampled_from(["stop", "length"]), st.data())
def test_the_pieces_make_the_text(texts: list[str], route: str, reason: str, data: st.DataObject) -> None:
    pieces = [{"delta": {"content": text}} if route == CHAT else {"text": text} for text in texts]
    whole = events(route, *pieces, {"delta": {}, "finish_reason": reason})
    cut = data.draw(st.integers(0, len(whole)))

    answer, usage = collected(route, whole[:cut], whole[cut:])

    (choice,) = answer["choices"]
    assert (choice["message"]["content"] if route == CHAT else choice["text"]) == "".join(texts)
    assert (choice["index"], choice["finish_reason"]) == (0, reason)
    assert answer["object"] == ("chat.completion" if route == CHAT else "text_completion")
    assert answer["model"] == "acme/tiny"
    assert answer["usage"]["completion_tokens"] == usage.completion_tokens


def test_reasoning_and_tool_calls_are_kept() -> None:
    answer, usage = collected(
        CHAT,
        events(
            CHAT,
            {"delta": {"role": "assistant", "reasoning_content": "Hm"}},
            {"delta": {"reasoning_content": "m."}},
            {"delta": {"tool_calls": [{"index": 0, **CALL}]}},
            {"delta": {}, "finish_reason": "tool_calls"},
        ),
    )

    message = {"role": "assistant", "content": None, "reasoning_content": "Hmm.", "tool_calls": [CALL]}
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    assert usage == TokenUsage(3, 40)


@pytest.mark.parametrize(
    "stream",
    [b"", b'data: {"error": "CUDA out of memory."}\n\n', b'data: {"choices": [{"delta": {"tool_calls": 1}}]}\n\n'],
)
def test_what_is_no_answer_is_the_engines_failure(stream: bytes) -> None:
    with pytest.raises(EngineRefusalError) as refusal:
        collected(CHAT, stream)
    assert refusal.value.status == 502
