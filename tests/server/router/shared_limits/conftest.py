"""Processes that share limits in one database; each has connections of its own."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from modelshare.server.db import Database
from modelshare.server.errors import RateLimitedError
from modelshare.server.router import queries
from modelshare.server.router.admission import Admission, Gate
from modelshare.server.router.ledger import Ledger
from modelshare.wire.tiers import Tier

ENDPOINT = uuid.UUID(int=1)
NOVEMBER = 1_795_000_000.0
BUDGET = "key/00000000-0000-0000-0000-000000000002/2026-11"


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


async def enter(gate: Gate) -> None:
    if not gate.enter():
        await gate.enter_later()


async def is_used(of: Process, tokens: int) -> bool:
    return await used(of, BUDGET) == tokens


async def used(of: Process, subject: str) -> float:
    async with of.ledger._database.read() as session:
        return sum(row.used for row in await queries.ledger(session, [subject]))
