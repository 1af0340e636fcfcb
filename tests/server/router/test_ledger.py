"""Limits that several processes keep to together, counted from outside; each process has connections of its own."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from modelshare.server.db import Database
from modelshare.server.errors import RateLimitedError
from modelshare.server.router.admission import Admission, Gate
from modelshare.server.router.ledger import Ledger
from modelshare.wire.tiers import Tier, TierCategory
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]
ENDPOINT = uuid.UUID(int=1)
NOVEMBER = 1_795_000_000.0


class Clock:
    now = NOVEMBER

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Process:
    ledger: Ledger
    admission: Admission

    def gate(self, tier: Tier) -> Gate:
        return self.admission.gate(ENDPOINT, tier)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def processes(database_url: str, clock: Clock) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(process(database_url, clock)) for _ in range(3)]


@asynccontextmanager
async def process(database_url: str, clock: Clock) -> AsyncIterator[Process]:
    database = Database(database_url.replace("postgresql:", "postgresql+asyncpg:"))
    await database.start()
    ledger = Ledger(database, clock, clock)
    await ledger.start()
    try:
        yield Process(ledger, Admission(clock, ledger))
        await ledger.stop()
    finally:
        await database.close()


def tier(*, requests: int | None = None, tokens: int | None = None, concurrent: int = 100_000) -> Tier:
    return Tier(
        slug="shared",
        name="Shared",
        category=TierCategory.FREE,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        max_concurrent_requests=concurrent,
        request_timeout_seconds=30,
        stream_idle_timeout_seconds=120,
        may_evict=True,
    )


async def enters(gate: Gate) -> bool:
    try:
        if not gate.enter():
            await gate.enter_later()
    except RateLimitedError:
        return False
    return True


async def passes(gate: Gate, *, tokens: int = 0) -> int:
    """How many requests are let in until the first refusal."""
    count = 0
    while await enters(gate):
        count += 1
        gate.charge(tokens)
        gate.leave()
    return count


async def test_requests_of_three_processes_count_together(processes: list[Process], clock: Clock) -> None:
    gates = [each.gate(tier(requests=600)) for each in processes]
    let_in = 0
    for _ in range(12):
        let_in += sum(await asyncio.gather(*map(passes, gates)))
        clock.now += 5
    assert 0.98 * (900 + 550) <= let_in <= 900 + 550


async def test_tokens_of_three_processes_count_together(processes: list[Process], clock: Clock) -> None:
    gates = [each.gate(tier(tokens=30_000)) for each in processes]
    used = 0
    for _ in range(6):
        used += 100 * sum(await asyncio.gather(*(passes(each, tokens=100) for each in gates)))
        clock.now += 10
    assert 0.98 * (30_000 + 25_000) <= used <= 1.02 * (30_000 + 25_000)


async def test_at_most_so_many_at_once_in_all_processes(processes: list[Process]) -> None:
    gates = [each.gate(tier(concurrent=50)) for each in processes]
    entered = await asyncio.gather(*(enters(gates[number % 3]) for number in range(90)))
    assert sum(entered) == 50
    assert [await enters(each) for each in gates] == [False] * 3


async def test_no_refusal_while_slots_lie_idle_in_another_process(processes: list[Process]) -> None:
    gates = [each.gate(tier(concurrent=50)) for each in processes]
    for gate in gates:
        assert all(await asyncio.gather(*(enters(gate) for _ in range(50)))), "all of them, whoever had them before"
        assert not await enters(gate)
        for _ in range(50):
            gate.leave()


async def test_a_large_request_counts_in_every_process(processes: list[Process], clock: Clock) -> None:
    one, two, _ = (each.gate(tier(concurrent=4)) for each in processes)
    assert await enters(one)
    one.count_as(7)
    await wait_until(lambda: _refused(two))
    one.leave(7)
    clock.now += 1
    assert await enters(two)


async def _refused(gate: Gate) -> bool:
    if await enters(gate):
        gate.leave()
        return False
    return True


async def test_what_was_borrowed_comes_back_when_a_process_stops(processes: list[Process]) -> None:
    limits = tier(requests=10_000, concurrent=10)
    one, two, _ = (each.gate(limits) for each in processes)
    assert await enters(one)
    one.leave()
    await processes[0].ledger.stop()
    assert await enters(two)
    assert dict(two.headers())[b"x-ratelimit-remaining-requests"] == b"10000"


async def test_the_slots_of_a_killed_process_come_back(
    database_url: str, processes: list[Process], clock: Clock
) -> None:
    limits = tier(concurrent=10)
    async with process(database_url, clock) as killed:
        gate = killed.gate(limits)
        assert all(await asyncio.gather(*(enters(gate) for _ in range(10))))
        other = processes[0].gate(limits)
        assert not await enters(other)
        await silence(killed.ledger)
        clock.now += 10
        assert all(await asyncio.gather(*(enters(other) for _ in range(10))))


async def silence(ledger: Ledger) -> None:
    """From now on it writes nothing, as if its process had been killed."""
    await ledger._sweeping.stop()
    ledger._held.clear()


async def test_a_refusal_tells_truly_when_to_come_back(processes: list[Process], clock: Clock) -> None:
    gates = [each.gate(tier(requests=6)) for each in processes]
    assert sum(await asyncio.gather(*map(passes, gates))) == 9
    with pytest.raises(RateLimitedError) as refused:
        await enter(gates[0])
    assert refused.value.retry_after == 10
    clock.now += 9
    assert not await enters(gates[1])
    clock.now += 1
    assert await enters(gates[2])
    assert not await enters(gates[0])


async def enter(gate: Gate) -> None:
    if not gate.enter():
        await gate.enter_later()


async def test_refusals_are_known_without_asking_again(processes: list[Process]) -> None:
    gate = processes[0].gate(tier(requests=6))
    await passes(gate)
    with pytest.raises(RateLimitedError):
        gate.enter()


async def test_a_raised_limit_counts_at_once(processes: list[Process]) -> None:
    one, two, _ = processes
    assert await passes(one.gate(tier(requests=6))) == 9
    assert await passes(two.gate(tier(requests=60))) == 81
    assert not await enters(one.gate(tier(requests=60)))
