"""Sizes and times for people."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.units import minute, moment, scale, size


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (12_300_000_000, "12.3 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes_read_as_people_say_them(count: int, words: str) -> None:
    assert size(count) == words


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_larger_size_never_reads_as_a_smaller_one(one: int, other: int) -> None:
    def read(text: str) -> float:
        number, unit = text.split()
        return float(number) * 1000.0 ** ("bytes", "kB", "MB", "GB", "TB").index(unit)

    smaller, larger = sorted((one, other))
    assert read(size(smaller)) <= read(size(larger))
    assert abs(read(size(one)) - one) <= max(one * 0.051, 0)


@given(st.integers(0, 10**17), st.integers(0, 3))
def test_what_is_scaled_rounds_to_less_than_a_thousand(count: int, digits: int) -> None:
    value, unit = scale(count, ("", "k", "M", "G", "T", "P"), digits=digits)
    assert 0 <= round(value, digits) < 1000
    assert unit == "" or round(value, digits) >= 1


@given(st.integers())
def test_any_second_is_a_minute(seconds: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", minute(seconds))
    assert moment(seconds).isoformat().endswith("+00:00")


def test_a_minute_is_in_utc() -> None:
    assert minute(1_700_000_000) == "2023-11-14 22:13"
