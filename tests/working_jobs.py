"""Workers and the results of their jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import select

from modelshare.server.db import Database, notify
from modelshare.server.jobs import (
    TOPIC,
    GivenUpRow,
    Handler,
    JobRow,
    Lease,
    Worker,
    enqueue,
    given_up,
)


@asynccontextmanager
async def working(
    database: Database, clock: Callable[[], float], handler: Handler, *, holder: str = "here", parallel: int = 1
) -> AsyncIterator[Worker]:
    worker = Worker(database, {"work": handler}, clock, holder=holder, parallel=parallel)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def ask(database: Database, *subjects: str, now: float) -> None:
    async with database.write() as session:
        for subject in subjects:
            await enqueue(session, "work", subject, now=int(now))


async def wake(database: Database) -> None:
    """Makes workers check for due jobs now instead of at their next interval."""
    async with database.write() as session:
        notify(session, TOPIC, "work")


async def jobs(database: Database) -> list[JobRow]:
    async with database.read() as session:
        return list(await session.scalars(select(JobRow)))


async def none_left(database: Database) -> bool:
    return not await jobs(database)


async def given_up_now(database: Database) -> list[GivenUpRow]:
    async with database.read() as session:
        return await given_up(session, 10)


async def nothing_given_up(database: Database) -> bool:
    return not await given_up_now(database)


async def never(_: Lease) -> None:
    await asyncio.Event().wait()
