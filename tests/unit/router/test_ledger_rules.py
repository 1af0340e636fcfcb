"""What is lent of a limit to several processes, whatever they do."""

import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.router.ledger_rules import LEASE_SECONDS, Answer, Ask, Limit, Record, settle, threshold

LIMIT = Limit(capacity=90, per_minute=60)
BUDGET = Limit(capacity=1000)


@dataclass
class Shared:
    """A record, and processes that use what they have borrowed of it."""

    limit: Limit
    now: float = 1000.0
    record: Record = field(default_factory=Record)
    left: dict[str, float] = field(default_factory=dict)
    lease_ends: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)

    def ask(self, process: str, *, need: float = 0, spare: float = 0, kept: float = 0) -> Answer:
        total = self.totals.get(process, 0)
        ask = Ask(self.limit, total=total, kept=kept, need=need, spare=spare)
        self.record, answer = settle(self.record, ask, process, self.now)
        self.left[process], self.lease_ends[process] = answer.lent, self.now + LEASE_SECONDS
        return answer

    def available(self, process: str) -> float:
        return self.left[process] if self.now < self.lease_ends.get(process, 0) else 0

    def use(self, process: str, amount: float) -> None:
        self.left[process] = self.left.get(process, 0) - amount
        self.totals[process] = self.totals.get(process, 0) + amount


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 8), st.integers(0, 50), st.integers(0, 50), st.integers(0, 99)),
    max_size=40,
)


@given(STEPS)
def test_never_more_than_the_capacity_and_what_was_refilled(steps: list[tuple[str, float, int, int, int]]) -> None:
    shared = Shared(LIMIT)
    for process, seconds, need, spare, used in steps:
        shared.now += seconds
        shared.use(process, min(used, shared.available(process)))
        shared.ask(process, need=need, spare=spare)
        assert sum(shared.totals.values()) <= 90 + (shared.now - 1000) + 0.1


@given(STEPS)
def test_what_one_process_needs_it_gets_if_nobody_has_it(steps: list[tuple[str, float, int, int, int]]) -> None:
    shared = Shared(LIMIT)
    for process, seconds, need, spare, used in steps:
        shared.now += seconds
        shared.use(process, min(used, shared.available(process)))
        answer = shared.ask(process, need=need, spare=spare)
        assert answer.lent >= need or answer.free < 1
        assert answer.lent <= need + spare


def test_an_overdraft_is_paid_off_first() -> None:
    shared = Shared(LIMIT)
    assert shared.ask("a", need=10).lent == 10
    shared.use("a", 120)
    assert shared.ask("a", need=1).lent == 0
    assert shared.ask("b", need=1).lent == 0
    shared.now += 31
    assert shared.ask("b", need=1).lent == 1


def test_what_is_reported_twice_counts_once() -> None:
    """As after a commit whose answer was lost."""
    shared = Shared(BUDGET)
    shared.ask("a", need=100)
    shared.use("a", 60)
    assert [shared.ask("a").used, shared.ask("a").used] == [60, 60]


def test_what_a_process_that_is_gone_had_borrowed_comes_back() -> None:
    shared = Shared(BUDGET)
    shared.ask("a", need=600)
    assert shared.ask("b", need=600).lent == 400
    shared.now += LEASE_SECONDS
    assert shared.ask("b", need=600).lent == 600
    shared.use("a", 50)  # it was only slow
    assert shared.ask("a", need=1000).lent == 350


def test_slots_in_use_stay_lent_even_beyond_the_limit() -> None:
    shared = Shared(Limit(4))
    shared.ask("a", need=1)
    assert shared.ask("a", kept=8).lent == 8
    assert shared.ask("b", need=1).lent == 0
    assert shared.ask("a", kept=3).free == 1
    assert shared.ask("b", need=1).lent == 1


def test_little_is_lent_ahead_when_little_is_left() -> None:
    shared = Shared(Limit(20))
    assert shared.ask("a", need=1, spare=10).lent == 5
    shared.ask("b", need=12)
    assert shared.ask("c", need=1, spare=10).lent == 1


def test_who_asks_learns_when_all_others_have_settled_since() -> None:
    shared = Shared(Limit(10))
    assert shared.ask("a", need=4).others_turn == math.inf
    shared.ask("b", need=4)
    asked = shared.ask("c", need=4)
    assert asked.others_turn < asked.turn
    shared.ask("a", kept=4)
    assert shared.ask("c", need=4).others_turn < asked.turn
    shared.ask("b", kept=2)
    last = shared.ask("c", need=4)
    assert last.others_turn > asked.turn
    assert last.lent == 4


def test_a_clock_that_is_behind_refills_nothing_twice() -> None:
    shared = Shared(LIMIT)
    shared.ask("a", need=90)
    shared.use("a", 90)
    shared.ask("a")
    shared.now += 10
    assert shared.ask("a", need=90).lent == 10
    shared.now -= 10
    assert shared.ask("b", need=90).lent == 0
    shared.now += 10
    assert shared.ask("b", need=90).lent == 0


def test_thresholds_of_a_budget() -> None:
    assert [threshold(used, 1000) for used in (0, 799.9, 800, 999.9, 1000, 5000)] == [0, 0, 80, 80, 100, 100]
    assert threshold(0, 0) == 100
