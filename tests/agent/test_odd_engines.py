"""The agent's relay before an engine that answers in every way there is: what a client gets of it, and what counts."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.support import relayed, serving
from modelshare.agent.deployment import Serving
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engines.base import EngineSpec, ExternalServer, Format, Task
from modelshare.agent.engines.external import ExternalEngine
from modelshare.agent.relay import EngineRelay
from modelshare.wire.link import INITIAL_CREDIT, Answer, Chunk, End, Frame, Head, Request
from odd_engine import FORMS, SECRET, TEXT, application

pytestmark = pytest.mark.anyio

FAILED = "The engine failed on this request; try again, or change the request."
NO_ANSWER = "The engine returned an invalid answer. Try again."
CONTEXT = 2048


class Agent:
    """An agent without its link: frames are kept."""

    def __init__(self, relay: EngineRelay) -> None:
        self._relay = relay
        self.frames: list[Frame] = []

    async def serve(self, body: dict[str, Any], route: str = "chat/completions") -> list[Frame]:
        request = Request(1, "dep", route, json.dumps(body).encode(), more=False, timeout=20, credit=INITIAL_CREDIT)
        async with asyncio.timeout(20):
            self.frames += [frame async for frame in relayed(self._relay, request)]
        return self.frames

    async def whole(self, name: str, **fields: Any) -> tuple[Answer, dict[str, Any]]:
        (frame,) = await self.serve(chat(name, **fields))
        assert isinstance(frame, Answer)
        return frame, json.loads(frame.data)

    async def streamed(self, name: str, **fields: Any) -> tuple[bytes, End]:
        head, *chunks, end = await self.serve(chat(name, stream=True, **fields))
        assert head == Head(1, 200, "text/event-stream; charset=utf-8")
        assert isinstance(end, End)
        return b"".join([chunk.data for chunk in chunks if isinstance(chunk, Chunk)]), end


def chat(name: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": name}], **fields}


def contents(streamed: bytes) -> list[dict[str, Any]]:
    """The events but the last, as clients read them."""
    *events, last, rest = [line for line in streamed.decode().split("\n\n") if line != ":"]
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def said(streamed: bytes) -> str:
    return "".join(event["choices"][0]["delta"]["content"] for event in contents(streamed) if event["choices"]).strip()


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with serving(application()) as url, EnginePool() as pool:
        spec = EngineSpec(
            path=Path(), served_name="acme/tiny", format=Format.GGUF, task=Task.CHAT, context_length=CONTEXT
        )
        engine = ExternalEngine(ExternalServer(url), spec)
        yield Agent(EngineRelay(pool, lambda _: Serving(engine, engine.relay_for("acme/tiny"))))


@pytest.mark.parametrize("name", ["sane", "plain", "no-type", "json-type", *FORMS])
async def test_every_form_of_a_stream_says_the_same(agent: Agent, name: str) -> None:
    streamed, end = await agent.streamed(name)
    assert said(streamed) == TEXT
    assert {event["model"] for event in contents(streamed)} == {"acme/tiny"}
    assert not any("usage" in event for event in contents(streamed))
    assert end == End(1, None, 11, 7)


async def test_a_stream_is_over_at_its_last_event_even_if_the_engine_stays(agent: Agent) -> None:
    streamed, end = await agent.streamed("open")
    assert said(streamed) == TEXT
    assert end == End(1, None, 11, 7)


EXACT = {"usage-text": (11, 7), "usage-float": (11, 7), "sane": (11, 7)}
ESTIMATED = {
    **dict.fromkeys(["usage-none", "usage-huge", "usage-infinite", "usage-negative", "usage-half"], (None, 5)),
    **dict.fromkeys(["usage-zero", "usage-list", "usage-word", "usage-true"], (None, 5)),
    **dict.fromkeys(["usage-null", "usage-beyond-context"], (11, 5)),
}


@pytest.mark.parametrize("name", [*EXACT, *ESTIMATED])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_counts_are_the_engines_where_they_can_be_and_estimates_elsewhere(
    agent: Agent, name: str, is_stream: bool
) -> None:
    told: Any
    if is_stream:
        streamed, frame = await agent.streamed(name, stream_options={"include_usage": True})
        told = contents(streamed)[-1]["usage"]
    else:
        frame, answer = await agent.whole(name)  # type: ignore[assignment]
        told = answer["usage"]
    prompt, completion = EXACT.get(name) or ESTIMATED[name]
    assert frame.estimated == (name in ESTIMATED)
    assert frame.prompt_tokens == prompt or (prompt is None and 5 <= frame.prompt_tokens <= 20)
    assert frame.completion_tokens == completion or (name in ESTIMATED and 5 <= frame.completion_tokens <= 7)
    assert told == {
        "prompt_tokens": frame.prompt_tokens,
        "completion_tokens": frame.completion_tokens,
        "total_tokens": frame.prompt_tokens + frame.completion_tokens,
        **({"estimated": True} if frame.estimated else {}),
    }


async def test_a_count_stays_below_what_the_client_allowed(agent: Agent) -> None:
    frame, _ = await agent.whole("sane", max_tokens=3)
    assert (frame.prompt_tokens, frame.completion_tokens, frame.estimated) == (11, 3, True)


async def test_four_answers_are_four_whatever_the_engine_makes_of_it(agent: Agent) -> None:
    for name in ("sane", "ignores-n"):
        agent.frames.clear()
        frame, answer = await agent.whole(name, n=4)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert (frame.prompt_tokens, frame.completion_tokens, frame.estimated) == (11, 28, False)
        assert answer["usage"]["completion_tokens"] == 28


@pytest.mark.parametrize(
    ("name", "message", "status"),
    [
        ("error-event", FAILED, 502),
        ("error-named", FAILED, 502),
        ("error-object", FAILED, 502),
        ("garbage-event", NO_ANSWER, 502),
        ("breaks", "The engine aborted its answer. Try again.", 502),
    ],
)
async def test_a_failure_in_a_stream_is_told_in_our_words_and_what_came_before_is_estimated(
    agent: Agent, name: str, message: str, status: int
) -> None:
    streamed, end = await agent.streamed(name)
    assert SECRET.encode() not in streamed
    assert b"[DONE]" not in streamed
    assert b"one" in streamed
    assert (end.error, end.status, end.estimated) == (message, status, True)
    assert end.completion_tokens >= streamed.count(b"data:") > 0
    assert end.prompt_tokens > 0


async def test_a_plain_refusal_in_a_stream_is_told_as_one(agent: Agent) -> None:
    _, end = await agent.streamed("refusal-late")
    assert (end.status, end.estimated) == (400, True)
    assert end.error
    assert SECRET not in end.error


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("html", 502, NO_ANSWER),
        ("error-in-200", 502, FAILED),
        ("error-word-in-200", 502, FAILED),
        ("refusal-in-200", 400, None),
        ("no-choices", 502, None),
        ("choices-empty", 502, NO_ANSWER),
        ("choices-null", 502, NO_ANSWER),
        ("choices-odd", 502, NO_ANSWER),
        ("choices-words", 502, NO_ANSWER),
        ("a-list", 502, NO_ANSWER),
        ("half", 502, NO_ANSWER),
        ("json-as-events", 502, FAILED),
        ("dead", 500, FAILED),
        ("error-first", 502, None),
        ("error-text", 502, None),
        ("refusal-event", None, None),
        ("garbage-first", 502, NO_ANSWER),
        ("nothing", 502, NO_ANSWER),
        ("only-done", 502, NO_ANSWER),
        ("only-usage", 502, NO_ANSWER),
    ],
)
async def test_what_is_no_answer_is_an_error_with_its_status(
    agent: Agent, name: str, status: int | None, message: str | None, is_stream: bool
) -> None:
    (frame,) = await agent.serve(chat(name, **({"stream": True} if is_stream else {})))
    assert isinstance(frame, Answer)
    error = json.loads(frame.data)["error"]
    assert frame.status == (status or (400 if is_stream else 502))
    assert error["type"] == ("server_error" if frame.status >= 500 else "invalid_request_error")
    assert message is None or error["message"] == message
    assert SECRET.encode() not in frame.data
    assert (frame.prompt_tokens, frame.completion_tokens, frame.estimated) == (0, 0, False)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("name", "status", "error", "retry_after"),
    [
        ("too-long", 400, ("invalid_request_error", "context_length_exceeded", "messages"), None),
        ("busy", 429, ("rate_limit_error", "rate_limit_exceeded", None), 17),
        ("overloaded", 503, ("server_error", None, None), 9),
        ("bad-param", 400, ("invalid_request_error", "bad_value", "temperature"), None),
    ],
)
async def test_what_clients_act_on_is_kept_and_the_engines_words_are_not(
    agent: Agent, name: str, status: int, error: tuple[str | None, ...], retry_after: int | None, is_stream: bool
) -> None:
    frame, told = await agent.whole(name, stream=is_stream)
    assert (frame.status, frame.retry_after) == (status, retry_after)
    assert (told["error"]["type"], told["error"]["code"], told["error"]["param"]) == error
    assert SECRET.encode() not in frame.data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("echo", True),
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("id_slot", 1),
        ("cache_salt", "x"),
        ("cache_prompt", True),
        ("kv_transfer_params", {}),
        ("chat_template", "{{ x }}"),
        ("temperature", "hot"),
        ("top_p", 1.5),
        ("best_of", 3),
        ("stream_options", []),
        ("stream_options", {"continuous_usage_stats": True}),
        ("functions", [{"name": "f"}]),
        ("verbosity", "low"),
        ("service_tier", "priority"),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a"}}),
        ("messages", [{"role": "user", "content": "a", "name": 5}]),
        ("messages", [{"role": "assistant", "tool_calls": [{}]}]),
        ("messages", [{"role": "tool", "content": "a", "tool_call_id": 5}]),
        ("messages", []),
        ("messages", "Hi"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]),
        ("messages", [{"role": "tool", "tool_call_id": "1", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "a", "image_url": "http://x/"}]}]),
        ("messages", [{"role": "user", "content": "a", "images": ["http://x/"]}]),
    ],
)
async def test_what_the_engine_would_ignore_or_may_not_be_asked_is_refused_by_its_name(
    agent: Agent, field: str, value: Any
) -> None:
    frame, told = await agent.whole("sane", **({"stream": True} if field == "stream_options" else {}) | {field: value})
    assert (frame.status, told["error"]["param"]) == (400, field)
    assert f"`{field}`" in told["error"]["message"]


async def test_a_whole_answer_that_breaks_is_no_model_that_loads(agent: Agent) -> None:
    frame, told = await agent.whole("breaks")
    assert (frame.status, told["error"]["code"]) == (502, None)
    assert told["error"]["message"] == "The engine aborted its answer. Try again."


async def test_vectors_come_in_the_form_and_number_that_was_asked_for(agent: Agent) -> None:
    frame = (await agent.serve({"input": ["a", "b"], "dimensions": 3}, "embeddings"))[0]
    assert isinstance(frame, Answer)
    assert frame.status == 404
