"""Token buckets, as properties."""

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.ratelimit import Bucket, TokenBuckets

rates = st.integers(1, 100_000)
moments = st.lists(st.floats(0, 600, allow_nan=False), min_size=1, max_size=60).map(sorted)


@given(rates, moments)
def test_no_minute_gives_more_than_the_rate_and_one_burst(per_minute: int, times: list[float]) -> None:
    bucket = Bucket(per_minute, per_minute * 1.5, per_minute * 1.5, 0.0)
    taken = [now for now in times if bucket.take(1, now) == 0]
    for first in taken:
        within = [now for now in taken if first <= now < first + 60]
        assert len(within) <= per_minute * 2.5 + 1


@given(rates, st.floats(0.1, 1000, allow_nan=False))
def test_after_the_wait_it_is_there(per_minute: int, amount: float) -> None:
    bucket = Bucket(per_minute, max(per_minute, amount), 0.0, 0.0)
    wait = bucket.take(amount, 0.0)
    assert wait >= 1
    assert bucket.take(amount, wait + 1e-3) == 0


@given(rates, st.floats(0, 1e6, allow_nan=False))
def test_a_charge_may_go_below_zero_and_is_waited_for(per_minute: int, used: float) -> None:
    bucket = Bucket(per_minute, per_minute, per_minute, 0.0)
    bucket.charge(per_minute + used, 0.0)
    assert bucket.level <= 0
    assert bucket.take(1, 0.0) >= 1


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    bucket = Bucket(60, 90, 10, updated=1000.0)
    bucket.refill(900.0)
    assert bucket.level == 10
    bucket.refill(901.0)
    assert bucket.level == 11


def test_each_subject_has_its_own_and_the_least_used_is_forgotten() -> None:
    now = 0.0
    buckets = TokenBuckets(2, lambda: now, limit=2)
    assert [buckets.take("a") == 0 for _ in range(4)] == [True, True, True, False], "2 a minute and half as many more"
    assert buckets.take("b") == 0
    assert buckets.take("a") > 0
    assert buckets.take("c") == 0, "`b` was used least recently, and is forgotten"
    assert buckets.take("a") > 0
    assert [buckets.take("b") == 0 for _ in range(4)] == [True, True, True, False]
