from hypothesis import given
from hypothesis import strategies as st

from modelshare.client.retry import FIRST_PAUSE, LONGEST_PAUSE, MAX_ATTEMPTS, Attempt, Outcome, pause

attempts = st.builds(
    Attempt,
    number=st.integers(1, 20),
    outcome=st.sampled_from(Outcome),
    repeatable=st.booleans(),
    retry_after=st.none() | st.integers(0, 10_000),
)


@given(attempts, st.floats(0, 1, exclude_max=True))
def test_it_ends_and_never_waits_long(attempt: Attempt, jitter: float) -> None:
    wait = pause(attempt, jitter=jitter)
    assert wait is None or 0 <= wait <= LONGEST_PAUSE
    if attempt.number >= MAX_ATTEMPTS or attempt.outcome is Outcome.ANSWERED:
        assert wait is None


@given(attempts)
def test_what_may_have_been_carried_out_is_not_sent_twice(attempt: Attempt) -> None:
    if not attempt.repeatable and attempt.outcome in {Outcome.LOST, Outcome.BUSY}:
        assert pause(attempt) is None


def test_what_was_not_sent_is_always_tried_again() -> None:
    assert pause(Attempt(1, Outcome.NOT_SENT, repeatable=False), jitter=0.5) == FIRST_PAUSE


def test_pauses_double() -> None:
    waits = [pause(Attempt(number, Outcome.LOST, repeatable=True), jitter=0.5) for number in (1, 2, 3)]
    assert waits == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]


def test_retry_after_is_honoured_up_to_a_bound() -> None:
    assert pause(Attempt(1, Outcome.BUSY, repeatable=True, retry_after=3)) == 3
    assert pause(Attempt(1, Outcome.BUSY, repeatable=True, retry_after=31)) is None
