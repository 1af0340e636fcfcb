"""Deployments whose answers fail, with a clock that the test turns."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.fleet.service import Target
from modelshare.server.router.circuits import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Circuits
from modelshare.server.router.target_selection import circuit_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def end(circuits: Circuits, *, is_failure: bool | None, is_trial: bool = False) -> None:
    circuits.end("a", is_failure=is_failure, is_trial=is_trial)


def opened(clock: Clock) -> Circuits:
    circuits = Circuits(clock)
    for _ in range(FAILURES):
        assert not circuits.is_open("a")
        end(circuits, is_failure=True)
    assert circuits.is_open("a")
    assert not circuits.is_open("b")
    return circuits


def test_failures_in_a_row_start_a_pause_and_one_trial_ends_it() -> None:
    clock = Clock()
    circuits = opened(clock)
    clock.now += FIRST_PAUSE
    assert not circuits.is_open("a")
    assert circuits.start("a")
    assert circuits.is_open("a"), "one trial at a time"
    assert not circuits.start("a")
    circuits.begin_answer("a")
    assert not circuits.is_open("a")
    end(circuits, is_failure=True)
    assert circuits.is_open("a"), "the answer broke off"
    clock.now += 2 * FIRST_PAUSE
    assert circuits.start("a")
    end(circuits, is_failure=False)
    end(circuits, is_failure=True)
    assert not circuits.is_open("a"), "counting starts again"


def test_nobody_makes_a_machine_pause_for_another_project() -> None:
    circuits = Circuits(Clock())
    target = Target("d", uuid.UUID(int=1), (), frozenset())
    for _ in range(FAILURES):
        circuits.end(circuit_of("one", target), is_failure=True, is_trial=False)
    assert circuits.is_open(circuit_of("one", target))
    assert not circuits.is_open(circuit_of("other", target))


def test_a_success_between_failures_counts_from_the_start() -> None:
    circuits = Circuits(Clock())
    for _ in range(5 * FAILURES):
        end(circuits, is_failure=True)
        end(circuits, is_failure=True)
        end(circuits, is_failure=False)
    assert not circuits.is_open("a")


def test_a_trial_without_a_result_makes_room_for_another() -> None:
    clock = Clock()
    circuits = opened(clock)
    clock.now += FIRST_PAUSE
    assert circuits.start("a")
    end(circuits, is_failure=None, is_trial=True)
    assert circuits.start("a")


def test_requests_that_were_sent_before_the_pause_do_not_prolong_it() -> None:
    clock = Clock()
    circuits = opened(clock)
    for _ in range(100):
        end(circuits, is_failure=True)
    clock.now += FIRST_PAUSE
    assert not circuits.is_open("a")


@given(st.integers(1, 40))
def test_pauses_grow_up_to_a_minute(trials: int) -> None:
    clock = Clock()
    circuits = opened(clock)
    for number in range(trials):
        assert circuits.is_open("a")
        clock.now += min(LONGEST_PAUSE, FIRST_PAUSE * 2**number) / 2 - 0.001
        assert circuits.is_open("a"), "at least half of the pause"
        clock.now += LONGEST_PAUSE
        assert circuits.start("a")
        end(circuits, is_failure=True, is_trial=True)


def test_few_deployments_are_remembered() -> None:
    circuits = Circuits(Clock())
    for number in range(20_000):
        circuits.end(str(number), is_failure=True, is_trial=False)
    assert len(circuits) == 10_000
