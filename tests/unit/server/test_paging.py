"""Cursors: what goes in comes out, and nothing else is taken."""

import base64
import json
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.errors import InvalidRequestError
from modelshare.server.paging import Paging, decode_cursor, encode_cursor

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


@given(st.lists(st.uuids(), unique=True), st.integers(1, 7))
def test_pages_in_a_row_are_the_whole_list(ids: list[uuid.UUID], limit: int) -> None:
    """Read as the databases do: in order, from beyond the cursor, one row more than a page."""
    stored = [SimpleNamespace(id=id_) for id_ in sorted(ids)]
    seen, paging = list[uuid.UUID](), Paging(limit)
    while True:
        after = paging.after_id
        rows = [row for row in stored if after is None or row.id > after][: paging.fetch_limit]
        page, cursor = paging.cut(rows)
        assert len(page) <= limit
        seen += [row.id for row in page]
        if cursor is None:
            break
        assert len(page) == limit, "only the last page is short"
        paging = Paging(limit, cursor)
    assert seen == sorted(ids)


@given(st.integers(0, 2**53), st.uuids())
def test_a_list_that_two_columns_order_goes_on_after_both(added_at: int, id_: uuid.UUID) -> None:
    _, cursor = Paging(1).cut([(added_at, id_), (added_at, id_)], lambda row: row)
    assert Paging(1, cursor).after_row(int, uuid.UUID) == (added_at, id_)
    assert Paging(1).after_row(int, uuid.UUID) is None
