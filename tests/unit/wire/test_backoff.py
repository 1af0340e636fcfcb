from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.backoff import Backoff


def test_delays_double_up_to_the_cap_and_start_again() -> None:
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
