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
