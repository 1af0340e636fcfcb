"""Workers: which jobs they take and when, how they stop, and what they outlive."""

import time

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from clock import Clock
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.db import Database, notify
from modelshare.server.jobs import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    TOPIC,
    JobRow,
    Lease,
    TryAgainError,
    Worker,
    enqueue,
    enqueue_if_absent,
    finish,
    postpone,
)
from modelshare.server.registry.tables import VersionRow
from modelshare.server.registry.versions import PROCESS
from served import wait_until
from working_jobs import ask, jobs, never, none_left, wake, working

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_stop_in_good_order_is_no_attempt(database: Database, clock: Clock) -> None:
    await ask(database, "long", now=clock())
    async with working(database, clock, never):

        async def taken() -> bool:
            return [row.attempts for row in await jobs(database)] == [1]

        await wait_until(taken)
    (row,) = await jobs(database)
    assert (row.attempts, row.lease_token, row.lease_holder) == (0, None, None)


async def test_a_worker_outlives_a_database_that_is_away(database: Database, clock: Clock) -> None:
    runs: list[int] = []

    async def work(lease: Lease) -> None:
        runs.append(lease.attempt)
        if len(runs) == 1:
            await rename(database, "jobs", "away")

    await ask(database, "patient", now=clock())
    with capture_logs() as logs:
        async with working(database, clock, work):

            async def failed() -> bool:
                return any(entry["event"] == "cannot claim or finish a job" for entry in logs)

            await wait_until(failed)
            await rename(database, "away", "jobs")
            clock.now += LEASE_SECONDS + 1

            async def finished() -> bool:
                await wake(database)
                return await none_left(database)

            await wait_until(finished)
    assert runs == [1, 2]


@pytest.mark.usefixtures("running_app")
async def test_a_job_that_ends_its_process_each_time_is_given_up(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id, status="processing")
    async with app.database.write() as session:
        version = (await session.scalars(select(VersionRow).where(VersionRow.model_id == model))).one()
        session.add(JobRow(kind=PROCESS, subject=str(version.id), run_after=app.platform.now(), attempts=MAX_ATTEMPTS))
        notify(session, TOPIC, PROCESS)

    async def failed() -> str | None:
        body = (await owner.http.get(f"/v1/models/{model}")).json()
        return body["status_reason"] if body["status"] == "failed" else None

    assert "revalidate" in await wait_until(failed)
    await wait_until(lambda: none_left(app.database))


async def rename(database: Database, old: str, new: str) -> None:
    async with database.write() as session:
        await session.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


async def test_a_job_is_run_at_its_second(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next round of looking, which is an hour later."""
    monkeypatch.setattr("modelshare.server.jobs.POLL_SECONDS", 3600)
    due = int(time.time()) + 2
    ran: list[float] = []

    async def work(_: Lease) -> None:
        ran.append(time.time())

    async with working(database, time.time, work):
        async with database.write() as session:
            await enqueue(session, "work", "timed", now=int(time.time()), after=due)
        await wait_until(lambda: none_left(database))
    assert due <= ran[0]


async def test_a_job_that_asks_for_another_time_has_used_no_attempt(database: Database, clock: Clock) -> None:
    attempts: list[int] = []

    async def work(lease: Lease) -> None:
        attempts.append(lease.attempt)
        if len(attempts) <= 2 * MAX_ATTEMPTS:
            raise TryAgainError(after=60)

    await ask(database, "patient", now=clock())
    async with working(database, clock, work):
        for number in range(1, 2 * MAX_ATTEMPTS + 1):

            async def postponed(number: int = number) -> bool:
                (row,) = await jobs(database)
                waits = row.lease_token is None and row.run_after == int(clock()) + 60
                return waits and len(attempts) == number

            await wait_until(postponed)
            clock.now += 60
            await wake(database)
        await wait_until(lambda: none_left(database))
    assert set(attempts) == {1}


async def test_workers_of_one_place_keep_to_their_kinds(database: Database, clock: Clock) -> None:
    """One that starts frees no lease of another's, takes no job of another's, and is not woken by one."""
    await ask(database, "long", now=clock())
    others: list[str] = []

    async def other(lease: Lease) -> None:
        others.append(lease.subject)

    async with working(database, clock, never):

        async def taken() -> bool:
            return [row.lease_token is not None for row in await jobs(database)] == [True]

        await wait_until(taken)
        second = Worker(database, {"other": other}, clock, holder="here")
        await second.start()
        assert await taken()
        second._wake.clear()
        await ask(database, "more", now=clock())
        assert not second._wake.is_set()
        async with database.write() as session:
            await enqueue(session, "other", "its own", now=int(clock()))

        async def done() -> bool:
            return others == ["its own"]

        await wait_until(done)
        await second.stop()


async def test_a_job_that_is_there_is_left_alone(database: Database, clock: Clock) -> None:
    async with database.write() as session:
        await enqueue(session, "work", "waits", now=int(clock()), after=int(clock()) + 100)
    for run_now, expected in ((False, int(clock()) + 100), (True, int(clock()))):
        async with database.write() as session:
            await enqueue_if_absent(session, "work", ["waits", "new"], now=int(clock()), run_now=run_now)
        rows = {row.subject: row.run_after for row in await jobs(database)}
        assert rows == {"waits": expected, "new": int(clock())}

    async with working(database, clock, never, parallel=2):

        async def all_taken() -> bool:
            return all(row.lease_token is not None for row in await jobs(database))

        await wait_until(all_taken)
        before = {row.subject: row.lease_token for row in await jobs(database)}
        async with database.write() as session:
            await enqueue_if_absent(session, "work", ["waits", "new"], now=int(clock()), run_now=True)
        assert {row.subject: row.lease_token for row in await jobs(database)} == before


@pytest.mark.parametrize("later", [True, False])
async def test_a_handler_ends_its_job_in_its_own_transaction(database: Database, clock: Clock, later: bool) -> None:
    """Nothing that the worker does afterwards undoes it: here the job was asked for anew in between."""
    runs: list[str] = []

    async def work(lease: Lease) -> None:
        runs.append(lease.subject)
        if len(runs) == 1:
            async with database.write() as session:
                await (postpone(session, lease, int(clock()) + 100) if later else finish(session, lease))
            async with database.write() as session:
                await enqueue_if_absent(session, "work", [lease.subject], now=int(clock()), run_now=True)

    async def run_again() -> bool:
        return runs == ["twice", "twice"] and await none_left(database)

    await ask(database, "twice", now=clock())
    async with working(database, clock, work):
        await wait_until(run_again)
