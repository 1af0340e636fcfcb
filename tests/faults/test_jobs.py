"""Leases: a job is worked on by one worker at a time, and is not lost with the worker that had it."""

import asyncio
import errno
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text, update
from structlog.testing import capture_logs

from clock import Clock
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.db import Database, notify
from modelshare.server.jobs import (
    KEPT_SECONDS,
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    TOPIC,
    GivenUpRow,
    Handler,
    JobRow,
    Lease,
    TryAgainError,
    Worker,
    enqueue,
    enqueue_if_absent,
    finish,
    forget_given_up,
    given_up,
    lease_is_valid,
    postpone,
    try_again,
)
from modelshare.server.registry import queries as registry_queries
from modelshare.server.registry.versions import PROCESS
from modelshare.server.settings import Settings
from served import wait_until

pytestmark = pytest.mark.anyio
CHILD = Path(__file__).with_name("worker_child.py")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database)
    await database.start()
    yield database
    await database.close()


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
    """Makes workers look now instead of at their next round."""
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


async def test_two_workers_take_each_job_once(settings: Settings, database: Database, clock: Clock) -> None:
    wanted = [f"job {number:02}" for number in range(20)]
    await ask(database, *wanted, now=clock())
    done: list[str] = []

    async def work(lease: Lease) -> None:
        await asyncio.sleep(0)
        done.append(lease.subject)

    other = Database(settings.database)
    async with working(database, clock, work, parallel=2), working(other, clock, work, holder="there", parallel=2):
        await wait_until(lambda: none_left(database))
    await other.close()
    assert sorted(done) == wanted


@pytest.mark.parametrize("came_back", [True, False])
async def test_a_killed_processs_job_is_taken_up_again(
    settings: Settings, database: Database, clock: Clock, came_back: bool
) -> None:
    """At once when the process of the same place is back, else when its lease has run out."""
    await ask(database, "unlucky", now=clock())
    command = [sys.executable, str(CHILD), settings.database, "there"]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert (await child.stdout.readline()).decode().strip() == "unlucky"
    child.kill()
    await child.wait()

    attempts: list[int] = []

    async def work(lease: Lease) -> None:
        attempts.append(lease.attempt)

    async with working(database, clock, work, holder="there" if came_back else "here"):
        if not came_back:
            await wake(database)
            assert attempts == [], "the lease still holds"
            clock.now = time.time() + LEASE_SECONDS + 1
            await wake(database)
        await wait_until(lambda: none_left(database))
    assert attempts == [2]


async def test_a_job_that_fails_is_tried_again_and_given_up_in_the_end(database: Database, clock: Clock) -> None:
    seen: list[tuple[int, bool]] = []

    async def fail(lease: Lease) -> None:
        seen.append((lease.attempt, lease.last))
        raise RuntimeError("not today")

    await ask(database, "hopeless", now=clock())
    async with working(database, clock, fail):
        for attempt in range(1, MAX_ATTEMPTS + 1):

            async def over(attempt: int = attempt) -> bool:
                rows = await jobs(database)
                return len(seen) == attempt and all(row.lease_token is None for row in rows)

            await wait_until(over)
            assert len(seen) == attempt, "not before its time"
            clock.now += 2**attempt
            await wake(database)
        await wait_until(lambda: none_left(database))
    assert seen == [(1, False), (2, False), (3, False), (4, False), (5, True)]
    [row] = await given_up_now(database)
    assert (row.kind, row.subject, row.attempts, row.error) == ("work", "hopeless", 5, "RuntimeError: not today")
    async with database.write() as session:
        await forget_given_up(session, now=row.given_up_at + KEPT_SECONDS)
    assert len(await given_up_now(database)) == 1
    async with database.write() as session:
        await forget_given_up(session, now=row.given_up_at + KEPT_SECONDS + 1)
    assert await given_up_now(database) == []


async def test_what_looks_like_an_outage_does_not_excuse_a_job_for_ever(database: Database, clock: Clock) -> None:
    seen: list[int] = []

    async def fail(lease: Lease) -> None:
        seen.append(lease.attempt)
        raise PermissionError(errno.EACCES, "no")

    pauses = [5, 5, 24 * 3600, *(2**attempt for attempt in range(1, MAX_ATTEMPTS + 1))]
    await ask(database, "one", now=clock())
    async with working(database, clock, fail):
        for count, pause in enumerate(pauses, start=1):

            async def given_back(count: int = count) -> bool:
                return len(seen) == count and all(row.lease_token is None for row in await jobs(database))

            await wait_until(given_back)
            clock.now += pause
            await wake(database)
        await wait_until(lambda: none_left(database))
    assert seen == [1, 1, 1, *range(1, MAX_ATTEMPTS + 2)]
    assert [row.subject for row in await given_up_now(database)] == ["one"]


@pytest.mark.parametrize("again_and_again", [True, False])
async def test_what_was_given_up_can_be_tried_again_and_is_seen_until_it_is_done(
    database: Database, clock: Clock, again_and_again: bool
) -> None:
    tries: list[str] = []

    async def work(lease: Lease) -> None:
        tries.append(lease.subject)
        if again_and_again or len(tries) == 1:
            raise RuntimeError(f"fail {len(tries)}\nwith \x1b[31m a \0 second line " + "x" * 1000)

    async def last_attempt() -> None:
        async with database.write() as session:
            await session.execute(update(JobRow).values(attempts=MAX_ATTEMPTS - 1))

    async def has_tried(times: int) -> bool:
        return len(tries) == times and await none_left(database)

    await ask(database, "broken", now=clock())
    await last_attempt()
    async with working(database, clock, work):
        await wait_until(lambda: has_tried(1))
        [row] = await given_up_now(database)
        assert row.error.startswith("RuntimeError: fail 1 with  [31m a   second line xxx")
        assert len(row.error) == 500
        async with database.write() as session:
            assert await try_again(session, row.id, now=int(clock())) is not None
            await session.execute(update(JobRow).values(attempts=MAX_ATTEMPTS - 1))
        assert await given_up_now(database) == []
        await wait_until(lambda: has_tried(2))
        left = await given_up_now(database)
        assert [each.error[:20] for each in left] == (["RuntimeError: fail 2"] if again_and_again else [])
        async with database.write() as session:
            assert await try_again(session, row.id, now=int(clock())) is None, "it has another id by now"


async def test_one_that_is_done_after_all_is_no_longer_given_up(database: Database, clock: Clock) -> None:
    """However it was asked for."""
    fails = [True, False]

    async def work(_: Lease) -> None:
        if fails.pop(0):
            raise RuntimeError("not yet")

    async with database.write() as session:
        session.add(JobRow(kind="work", subject="late", run_after=0, attempts=MAX_ATTEMPTS - 1))
    async with working(database, clock, work):
        await wait_until(lambda: none_left(database))
        assert len(await given_up_now(database)) == 1
        await ask(database, "late", now=clock())
        await wait_until(lambda: none_left(database))
        await wait_until(lambda: nothing_given_up(database))


async def test_a_slow_workers_token_no_longer_applies(settings: Settings, database: Database, clock: Clock) -> None:
    leases: dict[str, Lease] = {}
    go: dict[str, asyncio.Event] = {"slow": asyncio.Event(), "second": asyncio.Event()}

    def work_as(name: str) -> Handler:
        async def work(lease: Lease) -> None:
            leases[name] = lease
            await go[name].wait()

        return work

    async def has(name: str) -> bool:
        return name in leases

    async def valid(name: str) -> bool:
        async with database.write() as session:
            return await lease_is_valid(session, leases[name])

    await ask(database, "contested", now=clock())
    other = Database(settings.database)
    async with working(database, clock, work_as("slow")) as slow:
        await wait_until(lambda: has("slow"))
        assert await valid("slow")
        clock.now += LEASE_SECONDS + 1
        async with working(other, clock, work_as("second"), holder="there"):
            await wait_until(lambda: has("second"))
            assert (await valid("slow"), await valid("second")) == (False, True)
            go["slow"].set()
            await slow.stop()
            (row,) = await jobs(database)
            assert row.lease_token == leases["second"].token, "the slow one's end changed nothing"
            go["second"].set()
            await wait_until(lambda: none_left(database))
    await other.close()


async def test_asked_for_again_while_it_runs_it_runs_anew(database: Database, clock: Clock) -> None:
    runs: list[bool] = []

    async def work(lease: Lease) -> None:
        if not runs:
            await ask(database, "again", now=clock())
        async with database.write() as session:
            runs.append(await lease_is_valid(session, lease))

    await ask(database, "again", now=clock())
    async with working(database, clock, work):
        await wait_until(lambda: none_left(database))
    assert runs == [False, True], "what the first run found out no longer counts"


async def test_asked_for_by_many_at_once_it_is_one_job(database: Database, clock: Clock) -> None:
    await asyncio.gather(*(ask(database, "popular", now=clock()) for _ in range(10)))
    assert [row.subject for row in await jobs(database)] == ["popular"]


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


async def test_a_job_that_ends_its_process_each_time_is_given_up(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id, status="processing")
    async with app.database.write() as session:
        (version,) = await registry_queries.versions_of(session, [model])
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


async def test_a_job_is_run_at_its_second(database: Database) -> None:
    """Not at the next round of looking, which is seconds later."""
    due = int(time.time()) + 2
    ran: list[float] = []

    async def work(_: Lease) -> None:
        ran.append(time.time())

    async with working(database, time.time, work):
        async with database.write() as session:
            await enqueue(session, "work", "timed", now=int(time.time()), after=due)
        await wait_until(lambda: none_left(database))
    assert due <= ran[0] < due + 1


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
