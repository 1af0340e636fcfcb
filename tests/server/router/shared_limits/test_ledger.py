"""Limits that several processes keep to together, counted from outside."""

import asyncio
import uuid

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from cut_database import proxy_to
from modelshare.server.errors import RateLimitedError
from modelshare.server.router import ledger, queries
from modelshare.server.router.admission import Gate, Payer
from modelshare.server.router.allowances import Counted
from modelshare.server.router.ledger import FREED_TOPIC, Ledger
from modelshare.server.router.ledger_rules import Answer
from modelshare.server.router.tables import LedgerRow
from modelshare.wire.keys import KeyLimits
from served import wait_until
from server.router.shared_limits.conftest import (
    ENDPOINT,
    Clock,
    Process,
    enter,
    enters,
    is_used,
    passes,
    process,
)
from tiers import limited_tier

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]


async def test_requests_of_three_processes_count_together(processes: list[Process], clock: Clock) -> None:
    gates = [each.gate(limited_tier(requests=600)) for each in processes]
    let_in = 0
    for _ in range(3):
        let_in += sum(await asyncio.gather(*map(passes, gates)))
        clock.now += 20
    assert 0.98 * (900 + 400) <= let_in <= 900 + 400


async def test_tokens_of_three_processes_count_together(processes: list[Process], clock: Clock) -> None:
    gates = [each.gate(limited_tier(tokens=30_000)) for each in processes]
    used = 0
    for _ in range(3):
        used += 100 * sum(await asyncio.gather(*(passes(each, tokens=100) for each in gates)))
        clock.now += 20
    assert 0.98 * (30_000 + 20_000) <= used <= 1.02 * (30_000 + 20_000)


async def test_at_most_so_many_at_once_in_all_processes(processes: list[Process]) -> None:
    gates = [each.gate(limited_tier(concurrent=50)) for each in processes]
    entered = await asyncio.gather(*(enters(gates[number % 3]) for number in range(90)))
    assert sum(entered) == 50
    assert [await enters(each) for each in gates] == [False] * 3


async def test_no_refusal_while_slots_lie_idle_in_another_process(processes: list[Process]) -> None:
    gates = [each.gate(limited_tier(concurrent=50)) for each in processes]
    for gate in gates:
        assert all(await asyncio.gather(*(enters(gate) for _ in range(50)))), "all of them, whoever had them before"
        assert not await enters(gate)
        for _ in range(50):
            gate.leave()


async def test_a_slot_that_others_wait_for_is_given_back_as_soon_as_it_is_free(
    processes: list[Process], clock: Clock
) -> None:
    limits = limited_tier(concurrent=1).model_copy(update={"queue_seconds": 60})
    one, two, _ = (each.gate(limits) for each in processes)
    told = asyncio.Event()

    def freed(slots: str) -> None:
        processes[1].admission.freed(slots)
        told.set()

    processes[1].ledger._database.subscribe(FREED_TOPIC, freed)
    assert await enters(one)
    assert not await enters(two)

    async def is_known() -> bool:
        return one._slots.wanted_until > clock.now

    await wait_until(is_known)
    one.leave()
    await asyncio.wait_for(told.wait(), 30)
    assert await enters(two)


async def test_a_large_request_counts_in_every_process(processes: list[Process], clock: Clock) -> None:
    one, two, _ = (each.gate(limited_tier(concurrent=4)) for each in processes)
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
    limits = limited_tier(requests=10_000, concurrent=10)
    one, two, _ = (each.gate(limits) for each in processes)
    assert await enters(one)
    one.leave()
    await processes[0].ledger.stop()
    assert await enters(two)
    assert dict(two.headers())[b"x-ratelimit-remaining-requests"] == b"10000"


async def test_the_slots_of_a_killed_process_come_back(
    database_url: str, processes: list[Process], clock: Clock
) -> None:
    limits = limited_tier(concurrent=10)
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
    gates = [each.gate(limited_tier(requests=6)) for each in processes]
    assert sum(await asyncio.gather(*map(passes, gates))) == 9
    with pytest.raises(RateLimitedError) as refused:
        await enter(gates[0])
    assert refused.value.retry_after == 10
    clock.now += 9
    assert not await enters(gates[1])
    clock.now += 1
    assert await enters(gates[2])
    assert not await enters(gates[0])


async def test_what_is_left_includes_what_others_have_borrowed(processes: list[Process], clock: Clock) -> None:
    limits = limited_tier(requests=6000).model_copy(update={"burst_percent": 0})
    gates = [each.gate(limits) for each in processes]
    for gate in gates:
        for _ in range(100):
            assert await enters(gate)
            gate.leave()

    async def is_reported() -> bool:
        return all(each.total == each.acknowledged for gate in gates for each in gate._allowances)

    for _ in range(2):  # who reports first does not know of the others
        assert await enters(gates[0])
        gates[0].leave()
        clock.now += 0.6
        await wait_until(is_reported)
    left = 6000 - 302 + 2 * 60
    assert left - 1 <= int(dict(gates[0].headers())[b"x-ratelimit-remaining-requests"]) <= left


async def test_refusals_are_known_without_asking_again(processes: list[Process]) -> None:
    gate = processes[0].gate(limited_tier(requests=6))
    await passes(gate)
    with pytest.raises(RateLimitedError):
        gate.enter()


async def test_a_raised_limit_counts_at_once(processes: list[Process]) -> None:
    one, two, _ = processes
    assert await passes(one.gate(limited_tier(requests=6))) == 9
    assert await passes(two.gate(limited_tier(requests=60))) == 81
    assert not await enters(one.gate(limited_tier(requests=60)))


@pytest.mark.parametrize("how", ["cut", "stalled"])
async def test_without_the_database_each_process_goes_on_alone(
    database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(ledger, "_PATIENCE_SECONDS", 2.0)
    limits = limited_tier(requests=6, tokens=6000, concurrent=3)
    async with proxy_to(database_url) as proxy, process(proxy.url, clock) as alone:
        gate = alone.gate(limits)
        assert await enters(gate)
        gate.leave()
        await (proxy.cut() if how == "cut" else asyncio.to_thread(proxy.stall))
        assert await passes(gate) == 8, "what was left when it asked last"
        clock.now += 20
        assert [await enters(gate) for _ in range(3)] == [True, True, False]
        gate.charge(9000)
        gate.leave(2)
        clock.now += 20
        assert not await enters(gate), "tokens are owed"
        await proxy.open()

        async def is_shared_again() -> bool:
            clock.now += 1
            return alone.admission.used_alone(f"endpoint/{ENDPOINT}/requests") is None

        await wait_until(is_shared_again, 60)
        assert 0 < await passes(gate) <= 9


async def test_a_process_that_is_stopped_amid_a_transaction_lets_the_others_go_on_together(
    processes: list[Process],
) -> None:
    one, two, _ = (each.gate(limited_tier(requests=600)) for each in processes)
    assert await enters(one)
    subject = f"endpoint/{ENDPOINT}/requests"

    begun, is_over = asyncio.Event(), asyncio.Event()

    async def stop_amid() -> None:
        async with processes[0].ledger._database.write() as session:
            await queries.lock_ledger(session, [subject])
            begun.set()
            await is_over.wait()

    stopped = asyncio.create_task(stop_amid())
    await begun.wait()
    assert await enters(two)
    is_over.set()
    with pytest.raises(DBAPIError):
        await stopped
    assert processes[1].admission.used_alone(subject) is None


async def test_a_process_that_was_stopped_asks_before_it_goes_on(
    processes: list[Process], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PATIENCE_SECONDS", 2.0)
    one, two, _ = (each.gate(limited_tier(requests=600)) for each in processes)
    write, stopped = processes[0].ledger._write, True

    async def stop_once(counted: list[Counted]) -> list[Answer]:
        nonlocal stopped
        if stopped:
            stopped = False
            clock.now += 15
            raise TimeoutError
        return await write(counted)

    assert await passes(two) == 900
    monkeypatch.setattr(processes[0].ledger, "_write", stop_once)
    assert not await enters(two)
    assert await passes(one) == 150, "what came back in the meantime"
    assert one._allowances[0].is_alone is False


async def test_a_database_that_refuses_to_commit_refuses_no_requests(processes: list[Process], clock: Clock) -> None:
    payer = Payer("proj_acme", uuid.UUID(int=2), KeyLimits(monthly_token_budget=1000), None)
    alone = processes[0]
    gate = alone.admission.gate(ENDPOINT, limited_tier(tokens=600), payer)
    assert await enters(gate)
    gate.charge(100)
    await wait_until(lambda: is_used(alone, 100))
    alone.ledger._database.guard_writes(_refuse)
    for _ in range(4):
        gate.charge(10)
        await wait_until(lambda: _is_refused_again(alone, clock))
        assert await enters(gate)
    assert 850 <= min(each.level(clock()) for each in gate._allowances if each.budget) <= 860


async def _refuse(_: object) -> None:
    raise OSError("The disk is full.")


async def _is_refused_again(of: Process, clock: Clock) -> bool:
    """After the next attempt."""
    before, clock.now = of.ledger._away_until, clock.now + 1
    await wait_until(lambda: _is_later(of, before))
    return True


async def _is_later(of: Process, before: float) -> bool:
    return of.ledger._away_until > before


async def test_a_process_that_stops_gives_back_what_it_has_of_many_limits(processes: list[Process]) -> None:
    one, endpoints = processes[0], [uuid.UUID(int=number) for number in range(1, 251)]
    gates = [one.admission.gate(each, limited_tier(requests=6000)) for each in endpoints]
    assert all(await asyncio.gather(*map(enters, gates)))
    for gate in gates:
        gate.leave()
    await one.ledger.stop()
    async with one.ledger._database.read() as session:
        rows = await session.scalars(select(LedgerRow))
        assert [row.subject for row in rows if any(loan[0] for loan in row.loans.values())] == []
