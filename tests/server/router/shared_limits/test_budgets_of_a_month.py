"""Budgets of a month that several processes keep to together."""

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import select

from cut_database import proxy_to
from modelshare.server.audit.tables import AuditRow, OutboxRow
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.errors import RateLimitedError
from modelshare.server.router.admission import Payer
from modelshare.wire.keys import KeyLimits
from served import wait_until
from server.router.shared_limits.conftest import (
    BUDGET,
    ENDPOINT,
    Clock,
    Process,
    enter,
    enters,
    is_used,
    passes,
    process,
    used,
)
from tiers import limited_tier

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["postgres"], indirect=True)]


async def test_a_budget_counts_what_was_used_without_the_database(database_url: str, clock: Clock) -> None:
    payer = Payer("proj_acme", uuid.UUID(int=2), KeyLimits(monthly_token_budget=1000), None)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_to(database_url))
        alone, other = [await stack.enter_async_context(process(url, clock)) for url in (proxy.url, database_url)]
        gate, there = (each.admission.gate(ENDPOINT, limited_tier(), payer) for each in (alone, other))
        assert await enters(gate)
        await proxy.cut()
        gate.charge(400)
        assert await enters(gate)
        gate.charge(500)
        await proxy.open()

        async def is_told() -> bool:
            clock.now += 1
            return bool(await used(other, BUDGET) == 900)

        await wait_until(is_told, 60)
        assert await enters(there)
        there.charge(100)
        assert not await enters(there)


async def test_a_budget_that_is_set_again_counts_what_was_used_without_it(
    processes: list[Process], clock: Clock
) -> None:
    payer = Payer("proj_acme", uuid.UUID(int=2), KeyLimits(monthly_token_budget=1000), None)
    one, other, _ = processes
    gate = one.admission.gate(ENDPOINT, limited_tier(), payer)
    assert await enters(gate)
    gate.charge(100)
    await wait_until(lambda: is_used(one, 100))
    clock.now += 60
    usage = UsageRow(
        project_id="proj_acme",
        day="2026-11-18",
        endpoint_id=ENDPOINT,
        endpoint_slug="chat",
        key_id=payer.key_id,
        requests=9,
        errors=0,
        prompt_tokens=900,
        completion_tokens=200,
        estimated=0,
    )
    async with one.ledger._database.write() as session:
        session.add(usage)
    assert not await enters(gate)
    assert not await enters(other.admission.gate(ENDPOINT, limited_tier(), payer))


async def test_a_threshold_is_told_once_whoever_crosses_it(processes: list[Process], clock: Clock) -> None:
    payer = Payer("proj_acme", uuid.UUID(int=2), KeyLimits(monthly_token_budget=10_000), None)
    gates = [each.admission.gate(ENDPOINT, limited_tier(), payer) for each in processes]
    spent = 1000 * sum(await asyncio.gather(*(passes(each, tokens=1000) for each in gates)))
    assert 10_000 <= spent <= 12_000, "at most one request in progress more in each process"
    async with processes[0].ledger._database.read() as session:
        told = [(row.action, row.target) for row in await session.scalars(select(AuditRow).order_by(AuditRow.id))]
        sent = sorted(row.type for row in await session.scalars(select(OutboxRow)))
    assert told == [(action, f"key:{uuid.UUID(int=2)}") for action in ("budget.warn", "budget.exhaust")]
    assert sent == ["budget.exhausted", "budget.warning"]


async def test_a_month_that_begins_has_all_of_its_budget(processes: list[Process], clock: Clock) -> None:
    payer = Payer("proj_acme", uuid.UUID(int=2), KeyLimits(monthly_token_budget=100), None)
    one = processes[0].admission
    assert await passes(one.gate(ENDPOINT, limited_tier(), payer), tokens=100) == 1
    with pytest.raises(RateLimitedError) as refused:
        await enter(one.gate(ENDPOINT, limited_tier(), payer))
    assert refused.value.code == "budget_exceeded"
    clock.now += refused.value.retry_after or 0
    assert await passes(one.gate(ENDPOINT, limited_tier(), payer), tokens=100) == 1
