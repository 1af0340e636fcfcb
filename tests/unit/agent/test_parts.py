"""A request in parts, and their answers as one."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines import parameters
from modelshare.agent.engines.parts import StreamMerger, Subrequest, UsageCount, join, split
from modelshare.agent.engines.relay_rules import PreparedRequest, RelayPolicy, prepare_request
from modelshare.wire.inference import EMBEDDED_TOGETHER

POLICY = RelayPolicy(public_name="acme/tiny", request_model="m", supports=parameters.LLAMACPP)


def prepared(route: str, **fields: Any) -> PreparedRequest:
    return prepare_request(route, json.dumps(fields).encode(), POLICY)


def sent(part: Subrequest) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(part.prepared.body({}))
    return fields


def fields(content: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in content.items()}


@given(
    st.lists(st.text(), min_size=1, max_size=6) | st.lists(st.lists(st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(1, 6),
    st.none() | st.integers(-2, 1 << 40),
)
def test_each_prompt_is_asked_as_often_as_it_is_to_be_answered(prompts: list[Any], n: int, seed: int | None) -> None:
    request = prepared("completions", prompt=prompts, n=n, seed=seed, temperature=0.5)
    parts = split(request)
    assert len(parts) == request.asked.turns == len(prompts) * n
    assert [part.first for part in parts] == list(range(len(parts)))
    if len(parts) == 1:
        return
    bodies = [sent(part) for part in parts]
    singly = prompts if len(prompts) > 1 else [prompts]
    assert [body["prompt"] for body in bodies] == [prompt for prompt in singly for _ in range(n)]
    assert all("n" not in body and body["temperature"] == 0.5 for body in bodies)
    assert all(part.prepared.asked.sequences == 1 for part in parts)
    of_one = [body.get("seed") for body in bodies[:n]]
    assert of_one == ([seed] * n if seed is None or seed < 0 else [seed + choice for choice in range(n)])


@given(st.integers(1, 40))
def test_texts_are_embedded_a_few_at_a_time(count: int) -> None:
    texts = [f"text {number}" for number in range(count)]
    parts = split(prepared("embeddings", input=texts))
    inputs = [sent(part)["input"] for part in parts]
    assert [text for some in inputs for text in some] == texts
    assert max(map(len, inputs)) <= EMBEDDED_TOGETHER
    vectors = [[{"embedding": [float(text[5:])], "index": at} for at, text in enumerate(some)] for some in inputs]
    whole = join(parts, [fields({"object": "list", "data": some}) for some in vectors])
    data = json.loads(bytes(whole["data"]))
    assert [(one["index"], one["embedding"]) for one in data] == [(at, [float(at)]) for at in range(count)]


@pytest.mark.parametrize("prompt", ["text", ["text"], [1, 2, 3], [[1, 2, 3]]])
def test_one_sequence_stays_as_it_is(prompt: Any) -> None:
    request = prepared("completions", prompt=prompt)
    assert split(request) == [Subrequest(request)]


def test_answers_are_joined_and_counted_together() -> None:
    parts = split(prepared("completions", prompt=["one", "two"], n=2))
    count = UsageCount()
    answers = []
    for number, part in enumerate(parts):
        tally = count.begin(part)
        tally.generated([f"answer {number}"])
        tally.set_reported(msgspec.Raw(b'{"prompt_tokens": 3, "completion_tokens": %d}' % (number + 1)))
        choice = {"index": 0, "text": f"answer {number}", "finish_reason": "stop"}
        answers.append(fields({"id": f"c{number}", "choices": [choice]}))
    whole = join(parts, answers)
    texts = [(choice["index"], choice["text"]) for choice in json.loads(bytes(whole["choices"]))]
    assert texts == [(number, f"answer {number}") for number in range(4)]
    assert bytes(whole["id"]) == b'"c0"'
    assert (count.usage.prompt_tokens, count.usage.completion_tokens, count.usage.estimated) == (6, 10, False)
    usage = {"prompt_tokens": 6, "completion_tokens": 10, "total_tokens": 16}
    assert json.loads(bytes(count.for_client())) == usage


def test_what_was_not_begun_is_not_counted() -> None:
    parts = split(prepared("completions", prompt=["one " * 100, "two " * 100], n=2))
    count = UsageCount()
    assert count.usage.prompt_tokens == 0
    tally = count.begin(parts[0])
    tally.generated(["a", "b"])
    assert 80 < count.usage.prompt_tokens < 120
    assert (count.usage.completion_tokens, count.usage.estimated) == (2, True)


def test_streams_become_one() -> None:
    request = prepared("chat/completions", messages=[{"role": "user", "content": "x"}], n=2, stream=True)
    first, second = split(request)
    merger = StreamMerger()

    def piece(name: str) -> dict[str, msgspec.Raw]:
        return fields({"id": name, "created": len(name), "choices": [{"index": 0, "delta": {"content": name}}]})

    assert not merger.began
    assert merger.pieces(first, [{}]) == [{}], "a sign of life"
    assert not merger.began
    woven = [*merger.pieces(second, [piece("second")]), *merger.pieces(first, [piece("first"), {}])]
    assert merger.began
    seen = [json.loads(msgspec.json.encode(one)) for one in woven]
    assert [(one["id"], one["choices"][0]["index"]) for one in seen[:2]] == [("second", 1), ("second", 0)]
    assert seen[2] == {}
    assert merger.end(request, msgspec.Raw(b"{}")) == b"data: [DONE]\n\n"
