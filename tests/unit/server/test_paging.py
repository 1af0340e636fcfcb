"""Cursors: what goes in comes out, and nothing else is taken."""

import base64
import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import Paging, decode_cursor, encode_cursor

numbers = st.integers(-(2**63) + 1, 2**63 - 1)


def cursor_of(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(numbers, st.text(), st.uuids())
def test_a_cursor_carries_its_values(number: int, text: str, id_: uuid.UUID) -> None:
    cursor = encode_cursor(number, text, str(id_))
    assert decode_cursor(cursor, int, str, uuid.UUID) == [number, text, id_]
    assert "=" not in cursor
    assert "/" not in cursor
    assert "+" not in cursor


@given(st.text())
def test_rubbish_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequestError, match="next_cursor"):
        decode_cursor(cursor, int, uuid.UUID)


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ([], [int]),
        ([1, 2], [int]),
        ({"0": 1}, [int]),
        (1, [int]),
        (None, [int]),
        (["1"], [int]),
        ([True], [int]),
        ([1.5], [int]),
        ([None], [int]),
        ([2**63], [int]),
        ([1], [str]),
        ([["a"]], [str]),
        (["no id"], [uuid.UUID]),
        ([7], [uuid.UUID]),
    ],
)
def test_values_of_other_kinds_are_refused(value: Any, kinds: list[Any]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        decode_cursor(cursor_of(value), *kinds)
    assert (refused.value.status, refused.value.param) == (400, "after")


def test_deeply_nested_rubbish_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    with pytest.raises(InvalidRequestError):
        decode_cursor(deep, int)


def test_the_last_rows_id() -> None:
    last = uuid.uuid4()
    assert Paging(50, encode_cursor(str(last))).after_id == last
    assert Paging(50, None).after_id is None
