"""The Range header, for every size and every header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.storage.ranges import UnsatisfiableRangeError, parse_range

sizes = st.integers(min_value=1, max_value=10**15)
offsets = st.integers(min_value=0, max_value=10**16)


@given(sizes, offsets, offsets)
def test_first_and_last(size: int, first: int, last: int) -> None:
    header = f"bytes={first}-{last}"
    if last < first:
        assert parse_range(header, size) is None
    elif first >= size:
        with pytest.raises(UnsatisfiableRangeError):
            parse_range(header, size)
    else:
        assert parse_range(header, size) == range(first, min(last, size - 1) + 1)


@given(sizes, offsets)
def test_from_an_offset_on(size: int, first: int) -> None:
    if first >= size:
        with pytest.raises(UnsatisfiableRangeError):
            parse_range(f"bytes={first}-", size)
    else:
        assert parse_range(f"bytes={first}-", size) == range(first, size)


@given(sizes, st.integers(min_value=1, max_value=10**16))
def test_the_last_bytes(size: int, length: int) -> None:
    assert parse_range(f"bytes=-{length}", size) == range(max(0, size - length), size)


def test_the_last_none_is_unsatisfiable() -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parse_range("bytes=-0", 10)


@given(sizes, st.text(max_size=60) | st.from_regex(r"bytes ?=[0-9,\- ]*"))
def test_any_header_gives_a_range_inside_the_file_or_none(size: int, header: str) -> None:
    try:
        found = parse_range(header, size)
    except UnsatisfiableRangeError:
        return
    assert found is None or 0 <= found.start < found.stop <= size


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=1-2,4-5", "items=0-1", "bytes=a-b", "bytes=٣-٤", "bytes=--1"],
)
def test_what_is_not_one_range_means_the_whole_file(header: str | None) -> None:
    assert parse_range(header, 10) is None


def test_an_empty_file_is_always_sent_whole() -> None:
    assert parse_range("bytes=0-", 0) is None
    assert parse_range("bytes=-5", 0) is None


def test_the_unit_may_be_written_in_any_case() -> None:
    assert parse_range("Bytes=0-0", 10) == range(1)
