"""Numbers, sizes and times in words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web import number_format

COUNTS = st.integers(min_value=0, max_value=2**63)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, number_format.UNKNOWN),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4_100_000_000, "4.1 GB"),
        (999_999, "1 MB"),
        (123_456_789, "123 MB"),
    ],
)
def test_sizes(count: int | None, said: str) -> None:
    assert number_format.size(count) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, number_format.UNKNOWN),
        (7_241_732_096, "7.2B"),
        (70_000_000_000, "70B"),
        (22_000_000, "22M"),
        (671_000_000_000, "671B"),
        (124, "124"),
    ],
)
def test_parameters(count: int | None, said: str) -> None:
    assert number_format.parameters(count) == said


@pytest.mark.parametrize(
    ("tokens", "said"),
    [(None, number_format.UNKNOWN), (8192, "8K"), (131_072, "128K"), (40_000, "40,000"), (512, "512"), (0, "0")],
)
def test_contexts(tokens: int | None, said: str) -> None:
    assert number_format.context(tokens) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (86_400 * 3, "3 days ago"),
        (86_400 * 40, "1 month ago"),
        (86_400 * 800, "2 years ago"),
        (-30, "in a moment"),
        (-3600, "in 1 hour"),
    ],
)
def test_ago(seconds: int, said: str) -> None:
    assert number_format.ago(1_800_000_000 - seconds, 1_800_000_000) == said


def test_plurals() -> None:
    assert [number_format.plural(count, "endpoint") for count in (0, 1, 2, 1234)] == [
        "0 endpoints",
        "1 endpoint",
        "2 endpoints",
        "1,234 endpoints",
    ]
    assert number_format.plural(2, "address", "addresses") == "2 addresses"


@given(COUNTS)
def test_counts_are_short_and_near(count: int) -> None:
    said = number_format.short(count)
    assert len(said) <= 5 or count >= 10**21
    found = re.fullmatch(r"([\d.]+)([kMGTPE]?)", said)
    assert found
    value = float(found[1]) * 1000 ** " kMGTPE".index(found[2] or " ")
    assert abs(value - count) <= max(0.06 * count, 0.5)


@given(st.integers())
def test_any_second_is_a_date(seconds: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", number_format.date(seconds))
    assert number_format.iso(seconds).endswith("+00:00")


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_what_comes_is_told_from_what_was(seconds: int, now: int) -> None:
    said = number_format.ago(seconds, now)
    assert said.startswith("in ") == (seconds > now)
