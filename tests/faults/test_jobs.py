"""Leases: a job is worked on by one worker at a time, and is not lost with the worker that had it."""

import asyncio
import errno
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import update

from clock import Clock
from modelshare.server.db import Database
from modelshare.server.jobs import (
    KEPT_SECONDS,
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    Handler,
    JobRow,
    Lease,
    forget_given_up,
    lease_is_valid,
    try_again,
)
from modelshare.server.settings import Settings
from served import wait_until
from working_jobs import ask, given_up_now, jobs, none_left, nothing_given_up, wake, working

pytestmark = pytest.mark.anyio
CHILD = Path(__file__).with_name("worker_child.py")


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
    looked = asyncio.Event()

    async def work(lease: Lease) -> None:
        tries.append(lease.subject)
        if len(tries) > 1:
            await looked.wait()
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
        looked.set()
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


async def test_a_slow_workers_token_no_longer_applies(
    settings: Settings, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    async def renew(_: Lease) -> None:
        """It is too slow for that as well."""

    other = Database(settings.database)
    async with working(database, clock, work_as("slow")) as slow:
        monkeypatch.setattr(slow, "_renew", renew)
        await ask(database, "contested", now=clock())
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
