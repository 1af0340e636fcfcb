"""The owner's hours and rate."""

from datetime import datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.hold.limits import Hours, Rate, parse_rate

times = st.times().map(lambda at: at.replace(second=0, microsecond=0))
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1))  # noqa: DTZ001 - local time


@given(times, times, moments)
def test_they_open_when_they_say(begin: time, end: time, now: datetime) -> None:
    hours = Hours(begin, end)
    seconds = hours.seconds_until(now)
    assert 0 <= seconds <= 24 * 3600
    then = now + timedelta(seconds=seconds)
    assert hours.seconds_until(then + timedelta(seconds=1 if seconds else 0)) == 0 or begin == then.time()
    assert Hours.parse(str(hours)) == hours


def test_across_midnight_and_within_a_day() -> None:
    night, day = Hours.parse("22:00-06:00"), Hours.parse("9:30-17:00")
    at = datetime(2026, 11, 27, 12)  # noqa: DTZ001 - local time
    assert (night.seconds_until(at), day.seconds_until(at)) == (10 * 3600, 0)
    at = at.replace(hour=23)
    assert (night.seconds_until(at), day.seconds_until(at)) == (0, 10 * 3600 + 1800)


@pytest.mark.parametrize("text", ["", "22-6", "24:00-06:00", "22:00-06:60", "22:00 to 06:00"])
def test_other_hours_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 22:00-06:00"):
        Hours.parse(text)


def test_rates() -> None:
    assert [parse_rate(text) for text in ("50MB/s", "10kB", "1 GB/s")] == [50_000_000, 10_000, 1_000_000_000]
    for text in ("", "0MB/s", "9kB/s", "fast", "50 Mbit/s", "-1MB/s"):
        with pytest.raises(ValueError, match="such as 50MB/s"):
            parse_rate(text)


@given(st.integers(10_000, 10**10))
def test_pieces_are_small_enough_to_arrive_often(rate: int) -> None:
    assert 4096 <= Rate(rate).piece <= 256 << 10
    assert Rate(rate).piece / rate < 1
