"""Whose count of tokens is believed, and what is counted otherwise."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.counts import Tally, TokenUsage, total
from modelshare.wire.inference import InferenceRequest

CONTEXT = 1000
MAX = (1 << 31) - 1
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def tally(
    *, prompts: int = 1, choices: int = 1, max_tokens: int | None = None, counts_all: bool = True, **others: Any
) -> Tally:
    asked = InferenceRequest(stream=False, prompts=prompts, choices=choices, max_tokens=max_tokens, **others)
    return Tally(asked, 400, 40, CONTEXT, counts_all=counts_all)


def told(count: Tally, prompt: Any, completion: Any) -> TokenUsage:
    count.set_reported(msgspec.Raw(msgspec.json.encode({"prompt_tokens": prompt, "completion_tokens": completion})))
    return count.usage


@given(JSON, JSON, st.lists(st.text(max_size=20), max_size=5), st.integers(1, 4), st.integers(1, 50))
def test_whatever_an_engine_says_counts_are_within_what_was_asked_for(
    prompt: Any, completion: Any, texts: list[str], choices: int, limit: int
) -> None:
    count = tally(choices=choices, max_tokens=limit)
    count.generated(texts)
    usage = told(count, prompt, completion)
    assert 0 < usage.prompt_tokens <= CONTEXT
    assert 0 <= usage.completion_tokens <= choices * limit
    assert usage.completion_tokens > 0 or not any(texts)
    shown = msgspec.json.decode(count.for_client())
    assert shown["total_tokens"] == usage.prompt_tokens + usage.completion_tokens
    assert shown.get("estimated", False) == usage.estimated


@given(JSON)
def test_a_usage_of_any_shape_is_no_error(usage: Any) -> None:
    count = tally()
    count.generated(["a"])
    count.set_reported(msgspec.Raw(msgspec.json.encode(usage)))
    assert count.usage.completion_tokens >= 1
    count.for_client()


@pytest.mark.parametrize("value", [7, 7.0, "7"])
def test_a_whole_number_is_one_however_it_is_written(value: Any) -> None:
    assert told(tally(), value, value) == TokenUsage(7, 7)


@pytest.mark.parametrize("value", [None, -1, 7.5, "7.0", "", "seven", True, [7], 1001, 1 << 62, 1e300, "9" * 5000])
def test_what_is_none_is_estimated(value: Any) -> None:
    count = tally()
    count.generated(["abcdefgh", "i"])
    assert told(count, value, value) == TokenUsage(10, 3, estimated=True)


def test_nothing_told_is_estimated_and_not_nothing() -> None:
    count = tally()
    assert not count.began
    count.generated(["", "one", "two"])
    assert count.began
    assert count.usage == TokenUsage(10, 2, estimated=True)


def test_vectors_have_no_completion() -> None:
    count = tally(prompts=3, generates=False)
    assert told(count, 30, None) == TokenUsage(30, 0)
    assert msgspec.json.decode(count.for_client()) == {"prompt_tokens": 30, "total_tokens": 30}
    assert told(tally(generates=False), 30, 99) == TokenUsage(30, 0)


def test_the_count_of_one_answer_is_not_that_of_all() -> None:
    texts = ["one two three four five"] * 4
    for counts_all, wanted in ((True, TokenUsage(11, 7)), (False, TokenUsage(11, 23, estimated=True))):
        count = tally(choices=4, counts_all=counts_all)
        count.generated(texts)
        assert told(count, 11, 7) == wanted
        assert told(count, 11, 28) == TokenUsage(11, 28)


def test_details_are_shown_with_counts_that_are_the_engines() -> None:
    count = tally()
    details = {"cached_tokens": 4}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": details, "queue_ms": 9}
    count.set_reported(msgspec.Raw(msgspec.json.encode(usage)))
    shown = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": details}
    assert msgspec.json.decode(count.for_client()) == shown


def test_the_sum_is_an_estimate_as_soon_as_a_part_is() -> None:
    assert total([]) == TokenUsage()
    assert total([TokenUsage(1, 2), TokenUsage(3, 4)]) == TokenUsage(4, 6)
    assert total([TokenUsage(1, 2), TokenUsage(3, 4, estimated=True)]) == TokenUsage(4, 6, estimated=True)


def test_no_request_has_more_than_a_frame_can_say() -> None:
    asked = InferenceRequest(stream=False, prompts=2000, choices=128, max_tokens=None)
    count = Tally(asked, 1 << 25, 1 << 25, None, counts_all=True)
    assert told(count, 1 << 40, MAX).completion_tokens == MAX
    assert told(count, 1 << 40, MAX + 1).completion_tokens == 0
