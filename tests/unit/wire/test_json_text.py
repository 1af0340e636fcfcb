"""What is wrong with a body, in words."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.inference import BadInferenceRequestError, read
from modelshare.wire.json_text import explain_invalid_json

FLAWS = [
    (gzip.compress(b"{}", mtime=0), "compressed (gzip)"),
    (b"\x28\xb5\x2f\xfd\x04\x00", "compressed (zstd)"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    ("{}".encode("utf-16"), "UTF-16"),
    (b'{"a": "\xe4"}', "byte 7 (0xe4)"),
    (b'{"a": NaN}', "`NaN`"),
    (b'{"a": [1, -Infinity]}', "`-Infinity`"),
    (rb'{"a": "x\ud83d"}', r"`\ud83d`"),
    (rb'{"\udc00": 1}', r"`\udc00`"),
    (b'{"a": 1', "truncated"),
    (b'{"a": "x', "truncated"),
    (b'{"a":', "truncated"),
    (b'{"a": 1,}', "line 1, column"),
    (b"{'a': 1}", "line 1, column 2"),
    (b"a=1&b=2", "line 1, column 1"),
    (b"[" * 100_000, "nested too deeply"),
    (b"9" * 10_000, "too many digits"),
    (b" \n", "empty"),
]


@pytest.mark.parametrize(("body", "words"), FLAWS)
def test_words_for_it(body: bytes, words: str) -> None:
    said = explain_invalid_json(body)
    assert said is not None
    assert words in said
    assert said.endswith(".")


@pytest.mark.parametrize(("body", "words"), [each for each in FLAWS if each[0].startswith((b"{", b"\xef", b"\x1f"))])
def test_inference_says_the_same(body: bytes, words: str) -> None:
    with pytest.raises(BadInferenceRequestError) as raised:
        read("chat/completions", body)
    assert words in str(raised.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(value=VALUES, ascii_=st.booleans())
def test_nothing_is_wrong_with_json(value: object, *, ascii_: bool) -> None:
    assert explain_invalid_json(json.dumps(value, ensure_ascii=ascii_).encode()) is None


@given(st.binary())
def test_some_answer_to_any_bytes(body: bytes) -> None:
    explain_invalid_json(body)
