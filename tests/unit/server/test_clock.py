"""The database's clock between two looks at it."""

import math

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.clock import DatabaseClock
from modelshare.server.db import Database

_SECONDS = st.floats(-1e6, 1e6)
_STEPS = st.lists(st.tuples(st.floats(0, 100), st.one_of(st.none(), _SECONDS)), max_size=20)
"""How much time passes, and what the database then says that its clock is ahead by, if it is asked."""


class Ticks:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def clock_of(ticks: Ticks) -> DatabaseClock:
    return DatabaseClock(Database("postgresql+asyncpg://nobody@127.0.0.1:9/none"), ticks)


@given(_STEPS)
def test_it_never_goes_back_and_passes_at_least_half_as_fast(steps: list[tuple[float, float | None]]) -> None:
    ticks = Ticks()
    clock = clock_of(ticks)
    clock._set(ticks.now, ticks.now)
    before = clock()
    for passed, ahead in steps:
        ticks.now += passed
        if ahead is not None:
            clock._set(ticks.now + ahead, ticks.now)
        assert clock() - before >= passed / 2 - 1e-6
        before = clock()


@given(_SECONDS, st.floats(0, 1e7))
def test_it_is_right_at_once_or_after_twice_what_it_was_ahead(ahead: float, passed: float) -> None:
    ticks = Ticks()
    clock = clock_of(ticks)
    clock._set(ticks.now, ticks.now)
    clock._set(ticks.now + ahead, ticks.now)
    ticks.now += passed
    is_right = math.isclose(clock(), ticks.now + ahead, abs_tol=1e-3)
    assert is_right or passed < -2 * ahead


def test_an_answer_is_as_old_as_the_way_back() -> None:
    ticks = Ticks()
    clock = clock_of(ticks)
    clock._set(5_000_000.0, ticks.now - 3)
    assert clock() == 5_000_003.0
