"""The limits of a tier, with a clock that the test turns."""

import uuid
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.errors import RateLimitedError
from modelshare.server.router.admission import Admission, Gate
from modelshare.server.router.allowances import Allowance, Slots
from modelshare.server.router.ledger_rules import Limit
from modelshare.server.router.stated_limits import Budget, month_of
from modelshare.wire.errors import ErrorCode
from tiers import limited_tier


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


tier = partial(limited_tier, requests=60, tokens=1000, concurrent=5)


def passes(gate: Gate, times: int) -> int:
    """How many of so many requests, one after another, are let in."""
    let_in = 0
    for _ in range(times):
        try:
            gate.enter()
        except RateLimitedError:
            continue
        gate.leave()
        let_in += 1
    return let_in


def test_requests_may_burst_by_half_and_then_come_at_their_rate() -> None:
    clock = Clock()
    gate = Gate(tier(), clock)
    assert passes(gate, 200) == 90
    clock.now += 10
    assert passes(gate, 200) == 10


def test_too_many_requests_say_when_to_come_back() -> None:
    clock = Clock()
    gate = Gate(tier(requests=6), clock)
    passes(gate, 9)
    with pytest.raises(RateLimitedError, match="6 requests per minute") as refused:
        gate.enter()
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMIT_EXCEEDED, 10)


def test_at_most_so_many_at_once() -> None:
    gate = Gate(tier(concurrent=2), Clock())
    gate.enter()
    gate.enter()
    with pytest.raises(RateLimitedError) as refused:
        gate.enter()
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.CAPACITY_EXCEEDED, 1)
    gate.leave()
    gate.enter()


def test_tokens_are_charged_afterwards_and_paid_off_by_time() -> None:
    clock = Clock()
    gate = Gate(tier(tokens=600), clock)
    gate.enter()
    gate.charge(1200)
    with pytest.raises(RateLimitedError, match="600 tokens per minute") as refused:
        gate.enter()
    assert refused.value.retry_after == 60
    clock.now += 60
    gate.enter()


def test_headers_as_openai_has_them() -> None:
    clock = Clock()
    gate = Gate(tier(requests=60, tokens=600), clock)
    for _ in range(60):
        gate.enter()
        gate.leave()
    gate.charge(700)
    assert dict(gate.headers()) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"30",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"x-ratelimit-limit-tokens": b"600",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"1m10s",
    }


def test_no_limit_no_header() -> None:
    gate = Gate(tier(requests=None, tokens=None, concurrent=1000), Clock())
    assert passes(gate, 500) == 500
    assert gate.headers() == []


def test_an_endpoint_has_its_own_gate_until_it_moves() -> None:
    admission = Admission(Clock())
    one, two = uuid.uuid4(), uuid.uuid4()
    free = tier()
    gate = admission.gate(one, free)
    assert admission.gate(one, free) is gate
    assert admission.gate(two, free) is not gate
    assert admission.gate(one, tier("cpu")) is not gate


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 40)), max_size=40))
def test_never_more_than_the_burst_and_the_rate(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    gate = Gate(tier(requests=60, tokens=None), clock)
    let_in = 0
    for seconds, times in steps:
        clock.now += seconds
        let_in += passes(gate, times)
    assert let_in <= 90 + clock.now + 1e-6


def test_a_request_brings_as_much_as_it_likes_while_there_is_room() -> None:
    gate = Gate(tier(concurrent=4), Clock())
    gate.enter()
    gate.count_as(7)
    assert gate.busy == 7
    with pytest.raises(RateLimitedError) as error:
        gate.enter()
    assert error.value.code is ErrorCode.CAPACITY_EXCEEDED
    gate.leave(7)
    assert gate.busy == 0
    gate.enter()


def test_before_the_first_answer_a_limit_of_a_minute_counts_as_unused_and_a_budget_as_used_up() -> None:
    minute = Allowance("key/tokens", Limit(100, 100), 0, is_alone=False)
    minute.take(30, 0)
    minute.go_alone(0)
    assert minute.level(0) == 70
    budget = Allowance("key/budget", Limit(100), 0, is_alone=False, budget=Budget("p", None, month_of(0)))
    budget.go_alone(0)
    assert not budget.is_ready(0)


def test_alone_it_goes_on_while_the_database_is_asked() -> None:
    """The answer may never come."""
    allowance = Allowance("key/tokens", Limit(100, 100), 0, is_alone=True)
    slots = Slots("endpoint/slots", Limit(2), 0, is_alone=True)
    slots.take()
    for each in (allowance, slots):
        each.ask(1, is_generous=False)
        assert each.is_ready(1)
