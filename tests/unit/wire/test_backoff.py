"""How long to wait before trying again."""

from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.backoff import Backoff, delay

BOUNDS = st.tuples(st.floats(0.1, 1), st.floats(1, 2))


def test_delays_double_up_to_the_longest_and_start_again() -> None:
    backoff = Backoff(0.1, 1.0, uniform=lambda _, whole: whole)
    assert [round(backoff.next(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next() == 0.1


@given(st.integers(0, 5000))
def test_a_delay_is_between_half_and_the_whole_however_long_it_lasts(failures: int) -> None:
    backoff = Backoff(0.1, 30.0)
    backoff.failures = failures
    whole = min(30.0, 0.1 * 2 ** min(failures, 40))
    assert whole / 2 <= backoff.next() <= whole


@given(st.integers(1, 10_000), st.floats(0, 100), st.floats(0, 1e6), st.floats(1, 10), BOUNDS)
def test_a_delay_keeps_to_its_bounds_and_never_shrinks(
    failures: int, first: float, longest: float, factor: float, jitter: tuple[float, float]
) -> None:
    low, high = (
        [delay(failures + n, first, longest, factor=factor, jitter=(at, at)) for n in range(2)] for at in jitter
    )
    assert low == sorted(low)
    assert high == sorted(high)
    assert 0 <= low[-1] <= high[-1] <= longest * jitter[1]


def test_without_jitter_a_delay_is_exact() -> None:
    assert [delay(failures, 10, 200, factor=3, jitter=(1, 1)) for failures in (1, 2, 3, 4)] == [10, 30, 90, 200]
