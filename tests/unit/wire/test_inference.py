"""Reading what a request asks for."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.inference import MAX_CHOICES, BadInferenceRequestError, InferenceRequest, read

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def asked(route: str, **fields: Any) -> InferenceRequest:
    return read(route, json.dumps(fields).encode())


def test_a_chat_is_one_sequence() -> None:
    assert asked("chat/completions", **CHAT) == InferenceRequest(stream=False, prompts=1, choices=1, max_tokens=None)


@pytest.mark.parametrize(
    ("prompt", "prompts"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a"] * 2000, 2000)]
)
def test_prompts_are_counted(prompt: Any, prompts: int) -> None:
    assert asked("completions", prompt=prompt).sequences == prompts
    assert asked("embeddings", input=prompt).sequences == prompts


@given(st.integers(1, MAX_CHOICES), st.integers(1, MAX_CHOICES), st.integers(1, 50))
def test_what_is_generated_counts_not_what_is_returned(n: int, best_of: int, prompts: int) -> None:
    found = asked("completions", prompt=["x"] * prompts, n=n, best_of=best_of)
    assert found.sequences == prompts * max(n, best_of)


def test_the_smaller_of_both_limits_binds() -> None:
    assert asked("chat/completions", **CHAT, max_tokens=9, max_completion_tokens=5).max_tokens == 5


@pytest.mark.parametrize("value", [[], "x", 5, True, 1.5])
def test_stream_options_are_an_object_or_null(value: Any) -> None:
    with pytest.raises(BadInferenceRequestError, match="`stream_options`") as error:
        asked("chat/completions", **CHAT, stream=True, stream_options=value)
    assert error.value.param == "stream_options"
    assert asked("chat/completions", **CHAT, stream=True, stream_options=None).stream


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 0), ("n", 129), ("n", "4"), ("n", 1 << 70), ("stream", "yes"), ("max_tokens", -1), ("best_of", 2.5)],
)
def test_the_field_at_fault_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadInferenceRequestError, match=f"`{field}`") as error:
        asked("chat/completions", **CHAT, **{field: value})
    assert error.value.param == field


@pytest.mark.parametrize("prompt", [None, [], {}, 5, [1, "a"], [None], [{}], True])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(BadInferenceRequestError, match="`prompt`"):
        asked("completions", prompt=prompt)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for route in ("chat/completions", "completions", "embeddings"):
        with suppress(BadInferenceRequestError):
            assert read(route, body).sequences >= 1


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b"{", b'{"n": NaN}', b"\xff", b"[" * 100_000, b'{"a":' * 9999])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadInferenceRequestError, match=r"JSON|nested"):
        read("chat/completions", body)
