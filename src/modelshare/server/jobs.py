"""Background jobs: rows for work to do, and leases for work in progress.

A job is enqueued in the transaction of the change that needs it. A worker takes a lease (a token and an expiry), works
outside of transactions, and checks the token when it finishes: a worker whose lease has expired changes nothing. Jobs
of a killed process are run again when their lease expires, or when the process restarts. A job whose last attempt
failed leaves a row with the reason, for the platform's operator.
"""

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import ColumnElement, Index, UniqueConstraint, delete, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server import outages
from modelshare.server.background import Loop, stop_all, wait
from modelshare.server.db import Database, Table, for_update, notify, skip_locked, upsert
from modelshare.server.ids import new_id
from modelshare.wire.backoff import delay

log = structlog.get_logger()

TOPIC = "jobs"
LEASE_SECONDS = 30
"""A worker renews its leases at every third of this."""
POLL_SECONDS = 5.0
"""How often a worker checks for jobs without a notification."""
MAX_ATTEMPTS = 5
KEPT_SECONDS = 30 * 24 * 3600
"""How long failed jobs are listed."""
_LONGEST_ERROR = 500
"""Characters."""
_OUTAGE_SECONDS = 5
"""Delay before a job is retried after an outage of the disk or the storage."""
_PATIENCE_SECONDS = 24 * 3600
"""How long failures in an outage do not count as attempts. After this, the job itself may be the cause."""
_REST_SECONDS = 0.5
"""Between attempts to reach the database in an outage."""


class JobRow(Table):
    """A job; the row is deleted when it is done."""

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("kind", "subject"), Index("ix_jobs_run_after", "run_after"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    subject: Mapped[str]
    run_after: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[int | None]
    lease_holder: Mapped[str | None]


class GivenUpRow(Table):
    """A job whose last attempt failed. Deleted when a retry succeeds, or after `KEPT_SECONDS`."""

    __tablename__ = "given_up_jobs"
    __table_args__ = (UniqueConstraint("kind", "subject"), Index("ix_given_up_jobs_given_up_at", "given_up_at"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    subject: Mapped[str]
    attempts: Mapped[int]
    error: Mapped[str]
    """Of the last attempt; for the operator only."""
    given_up_at: Mapped[int]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job."""

    job_id: uuid.UUID
    token: uuid.UUID
    subject: str
    attempt: int
    """Counts from 1."""

    @property
    def last(self) -> bool:
        """Whether this is the last attempt."""
        return self.attempt >= MAX_ATTEMPTS

    @property
    def attempts_exhausted(self) -> bool:
        """Whether the last attempt ended with its process. The handler should fail the job, which may crash
        processes."""
        return self.attempt > MAX_ATTEMPTS


class TryAgainError(Exception):
    """Raised by a handler to run the job again in `after` seconds, without counting this as an attempt."""

    def __init__(self, after: int) -> None:
        super().__init__(f"again after {after} s")
        self.after = after


Handler = Callable[[Lease], Awaitable[None]]
"""Does the work. An exception means that the job is retried later."""


async def enqueue(session: AsyncSession, kind: str, subject: str, *, now: int, after: int | None = None) -> None:
    """Enqueues a job. If one of the same kind and subject exists, that is run again instead.

    It runs at `after` (Unix seconds), or immediately.
    """
    due = now if after is None else after
    fresh = {"run_after": due, "attempts": 0, "lease_token": None, "lease_until": None, "lease_holder": None}
    statement = upsert(session, JobRow).values(id=new_id(), kind=kind, subject=subject, **fresh)
    await session.execute(statement.on_conflict_do_update(index_elements=["kind", "subject"], set_=fresh))
    notify(session, TOPIC, kind)


async def enqueue_if_absent(
    session: AsyncSession, kind: str, subjects: Collection[str], *, now: int, run_now: bool = False
) -> None:
    """Enqueues jobs that find their work themselves: an existing one, waiting or running, is not changed.

    `run_now`: a waiting one becomes due immediately.
    """
    if not subjects:
        return
    rows = [{"id": new_id(), "kind": kind, "subject": subject, "run_after": now, "attempts": 0} for subject in subjects]
    statement = upsert(session, JobRow).values(rows)
    there = ["kind", "subject"]
    await session.execute(
        statement.on_conflict_do_update(index_elements=there, set_={"run_after": now})
        if run_now
        else statement.on_conflict_do_nothing(index_elements=there)
    )
    notify(session, TOPIC, kind)


async def run_now(session: AsyncSession, kinds: Collection[str], subjects: Collection[str], *, now: int) -> None:
    """Makes waiting jobs due immediately; starts none that is not there."""
    waiting = JobRow.kind.in_(kinds), JobRow.subject.in_(subjects), JobRow.run_after > now
    await session.execute(update(JobRow).where(*waiting).values(run_after=now))
    for kind in kinds:
        notify(session, TOPIC, kind)


async def lease_is_valid(session: AsyncSession, lease: Lease) -> bool:
    """Whether the worker still has the lease. Check it in the transaction that applies the work."""
    statement = select(JobRow).where(*_held(lease))
    return await session.scalar(for_update(statement)) is not None


async def finish(session: AsyncSession, lease: Lease) -> None:
    """Ends the job, if the worker still has the lease. Handlers may call it in the transaction in which they find that
    no work is left.
    """
    await session.execute(delete(JobRow).where(*_held(lease)))


async def progressed(session: AsyncSession, lease: Lease) -> None:
    """Forgets earlier attempts of a long job that has come further, so that it may be killed any number of times."""
    await session.execute(update(JobRow).where(*_held(lease)).values(attempts=0))


async def postpone(session: AsyncSession, lease: Lease, until: int) -> None:
    """Returns the job, to be run at `until` (Unix seconds), if the worker still has the lease. For handlers, like
    `finish`;
    does not count as an attempt.
    """
    await session.execute(
        update(JobRow)
        .where(*_held(lease))
        .values(run_after=until, attempts=0, lease_token=None, lease_until=None, lease_holder=None)
    )


class Queue(NamedTuple):
    """Statistics of the jobs of one kind."""

    kind: str
    total: int
    taken: int
    """Number of jobs taken by a worker and not done."""
    run_after: int
    """When the first one is due, in Unix seconds."""


async def queues(session: AsyncSession) -> list[Queue]:
    """Statistics of pending jobs, by kind."""
    columns = JobRow.kind, func.count(), func.count(JobRow.lease_token), func.min(JobRow.run_after)
    rows = await session.execute(select(*columns).group_by(JobRow.kind).order_by(JobRow.kind))
    return [Queue(*row) for row in rows]


async def given_up(session: AsyncSession, limit: int, after: tuple[int, uuid.UUID] | None = None) -> list[GivenUpRow]:
    """Jobs that failed permanently, newest first; `after`: the last row of the previous page."""
    order = GivenUpRow.given_up_at, GivenUpRow.id
    statement = select(GivenUpRow).order_by(*(column.desc() for column in order)).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*order) < after)
    return list(await session.scalars(statement))


async def try_again(session: AsyncSession, given_up_id: uuid.UUID, *, now: int) -> GivenUpRow | None:
    """Retries a job that failed permanently; None if there is none, or it has succeeded since."""
    row = await session.get(GivenUpRow, given_up_id)
    if row is not None:
        await enqueue_if_absent(
            session, row.kind, [row.subject], now=now, run_now=True
        )  # locked first, like in `_give_up`
        await session.execute(delete(GivenUpRow).where(GivenUpRow.id == row.id))
    return row


async def forget_given_up(session: AsyncSession, *, now: int) -> None:
    """Deletes rows older than `KEPT_SECONDS`."""
    await session.execute(delete(GivenUpRow).where(GivenUpRow.given_up_at < now - KEPT_SECONDS))


class Worker:
    """Runs the jobs of one process, `parallel` at a time."""

    def __init__(
        self,
        database: Database,
        handlers: Mapping[str, Handler],
        clock: Callable[[], float],
        *,
        holder: str,
        parallel: int = 2,
    ) -> None:
        """`holder` identifies the process by data folder and address, so that it finds its leases after a restart."""
        self._database = database
        self._handlers = handlers
        self._clock = clock
        self._holder = holder
        self._excused: dict[uuid.UUID, float] = {}
        """When a job first failed in an outage that still continues."""
        self._poll_seconds = database.look_every(POLL_SECONDS)
        self._wake = asyncio.Event()
        self._looking = asyncio.Lock()
        self._loops = [
            Loop("claim or finish a job", self._take_and_run, every=0, retry=_REST_SECONDS, slow=math.inf)
            for _ in range(parallel)
        ]
        database.subscribe(TOPIC, self._told)

    async def start(self) -> None:
        """Releases leases of an earlier process with the same `holder`, then starts working."""
        async with self._database.write() as session:
            await session.execute(
                update(JobRow)
                .where(JobRow.lease_holder == self._holder, JobRow.kind.in_(self._handlers))
                .values(lease_token=None, lease_until=None, lease_holder=None)
            )
        for loop in self._loops:
            await loop.start()

    async def stop(self) -> None:
        await stop_all(self._loops)

    def _told(self, kind: str) -> None:
        if kind == "*" or kind in self._handlers:
            self._wake.set()

    async def _take_and_run(self) -> None:
        async with self._looking:  # one task checks and waits; the others work, or wait for their turn to check
            taken = await self._next()
        await self._work(*taken)
        self._wake.set()  # it may have postponed a job, and the waiting task does not know when it is due

    async def _next(self) -> tuple[str, Lease]:
        while True:
            self._wake.clear()  # before checking, so that a new job is not missed
            seconds = await self._due_in()
            if seconds <= 0:
                taken = await self._take()
                if taken is not None:
                    return taken
                seconds = _REST_SECONDS / 10  # another worker is taking it
            await wait(self._wake, min(seconds, self._poll_seconds))

    async def _due_in(self) -> float:
        """Seconds until the next job for this worker is due, as far as known."""
        free = _free(int(self._clock()))
        statement = select(func.min(JobRow.run_after)).where(free, JobRow.kind.in_(self._handlers))
        async with self._database.read() as session:
            due = await session.scalar(statement)
        return math.inf if due is None else due - self._clock()

    async def _take(self) -> tuple[str, Lease] | None:
        now = int(self._clock())
        statement = select(JobRow).where(JobRow.run_after <= now, _free(now), JobRow.kind.in_(self._handlers))
        async with self._database.write() as session:
            row = await session.scalar(skip_locked(statement.order_by(JobRow.run_after, JobRow.id).limit(1)))
            if row is None:
                return None
            row.attempts += 1
            row.lease_token, row.lease_until, row.lease_holder = uuid.uuid4(), now + LEASE_SECONDS, self._holder
            return row.kind, Lease(row.id, row.lease_token, row.subject, row.attempts)

    async def _work(self, kind: str, lease: Lease) -> None:
        renewing = Loop("renew a lease", partial(self._renew, lease), every=LEASE_SECONDS / 3)
        await renewing.start()
        try:
            await self._handlers[kind](lease)
        except asyncio.CancelledError:  # an orderly shutdown does not count as an attempt
            await self._give_back(lease, attempts=lease.attempt - 1, after=0)
            raise
        except TryAgainError as again:
            await self._give_back(lease, attempts=lease.attempt - 1, after=again.after)
        except Exception as error:
            is_outage = outages.outage_of(error) is not None
            if is_outage and self._is_excused(lease):  # an outage is not the job's fault
                outages.report("a job failed", error, kind=kind, subject=lease.subject)
                await self._give_back(lease, attempts=lease.attempt - 1, after=_OUTAGE_SECONDS)
                return
            # Handlers do not fail a job in an outage, so they are called once more with exhausted attempts.
            ends = lease.attempts_exhausted if is_outage else lease.last
            log.warning("job failed", kind=kind, subject=lease.subject, last=ends, exc_info=error)
            if ends:
                await self._give_up(kind, lease, error)
            else:
                await self._give_back(lease, attempts=lease.attempt, after=_retry_seconds(lease.attempt))
        else:
            await self._finish(kind, lease)
        finally:
            await renewing.stop()

    def _is_excused(self, lease: Lease) -> bool:
        now = self._clock()
        return now < self._excused.setdefault(lease.job_id, now) + _PATIENCE_SECONDS

    async def _renew(self, lease: Lease) -> None:
        await self._update(lease, lease_until=int(self._clock()) + LEASE_SECONDS)

    async def _give_back(self, lease: Lease, *, attempts: int, after: int) -> None:
        """Releases the lease; the job can be taken again in `after` seconds."""
        await self._update(
            lease,
            attempts=attempts,
            run_after=int(self._clock()) + after,
            lease_token=None,
            lease_until=None,
            lease_holder=None,
        )

    async def _finish(self, kind: str, lease: Lease) -> None:
        self._excused.pop(lease.job_id, None)
        done = GivenUpRow.kind == kind, GivenUpRow.subject == lease.subject
        async with self._database.write() as session:
            await finish(session, lease)
            await session.execute(delete(GivenUpRow).where(*done))

    async def _give_up(self, kind: str, lease: Lease, error: Exception) -> None:
        """Ends the job and stores the reason, unless another worker has the lease."""
        self._excused.pop(lease.job_id, None)
        why = {"attempts": lease.attempt, "error": _in_a_line(error), "given_up_at": int(self._clock())}
        async with self._database.write() as session:
            if not await lease_is_valid(session, lease):
                return
            await finish(session, lease)
            statement = upsert(session, GivenUpRow).values(id=new_id(), kind=kind, subject=lease.subject, **why)
            await session.execute(statement.on_conflict_do_update(index_elements=["kind", "subject"], set_=why))

    async def _update(self, lease: Lease, **values: Any) -> None:
        """Changes nothing if another worker has the lease."""
        async with self._database.write() as session:
            await session.execute(update(JobRow).where(*_held(lease)).values(**values))


def _in_a_line(error: Exception) -> str:
    """The error in one line, without the SQL statement and its values."""
    said = getattr(error, "orig", None) or error
    words = f"{type(error).__name__}: {said}"
    return "".join(each if each.isprintable() else " " for each in words[:_LONGEST_ERROR])


def _retry_seconds(attempt: int) -> int:
    return round(delay(attempt, 2, 2**MAX_ATTEMPTS, jitter=(1, 1)))


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return JobRow.id == lease.job_id, JobRow.lease_token == lease.token


def _free(now: int) -> ColumnElement[bool]:
    """The condition that no worker has the job."""
    return or_(JobRow.lease_until.is_(None), JobRow.lease_until < now)
