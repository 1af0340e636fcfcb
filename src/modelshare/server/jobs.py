"""Work in the background: rows that say what is to be done, and leases that say who is doing it.

A job is enqueued in the transaction of the change that wants it. A worker takes a lease (a token and an expiry), works
outside any transaction, and finishes guarded by the token: a worker that was too slow, or was thought dead, changes
nothing. A killed process's jobs are taken up again when their lease runs out, and at once when the process starts anew.
A job whose last attempt failed leaves a row that says why, for the platform's operator.
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
"""A lease is renewed every third of this while its worker lives."""
POLL_SECONDS = 5.0
"""How often a worker looks without having been told, and without knowing of a job that becomes due."""
MAX_ATTEMPTS = 5
KEPT_SECONDS = 30 * 24 * 3600
"""How long it can be seen that a job was given up."""
_LONGEST_ERROR = 500
"""Characters."""
_OUTAGE_SECONDS = 5
"""After which a job that a full disk, or a storage that was away, kept from its end is tried again."""
_PATIENCE_SECONDS = 24 * 3600
"""For so long an outage excuses a job: one that takes longer may be an error of the job's own that looks like it."""
_REST_SECONDS = 0.5
"""Between tries to reach a database that is away."""


class JobRow(Table):
    """One piece of work; the row is deleted when it is done."""

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
    """A job whose last attempt failed: until it is done after all, and at most for `KEPT_SECONDS`."""

    __tablename__ = "given_up_jobs"
    __table_args__ = (UniqueConstraint("kind", "subject"), Index("ix_given_up_jobs_given_up_at", "given_up_at"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    kind: Mapped[str]
    subject: Mapped[str]
    attempts: Mapped[int]
    error: Mapped[str]
    """Of the last attempt, for the operator alone."""
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
        """No further attempt follows a failure of this one."""
        return self.attempt >= MAX_ATTEMPTS

    @property
    def attempts_exhausted(self) -> bool:
        """The last attempt ended with its process. Give up instead of working: the job may be what ends processes."""
        return self.attempt > MAX_ATTEMPTS


class TryAgainError(Exception):
    """Raised by a handler: the job is to be run `after` seconds from now, and this was no attempt."""

    def __init__(self, after: int) -> None:
        super().__init__(f"again after {after} s")
        self.after = after


Handler = Callable[[Lease], Awaitable[None]]
"""Does the work; an exception means try again later."""


async def enqueue(session: AsyncSession, kind: str, subject: str, *, now: int, after: int | None = None) -> None:
    """Asks for the work, once: a job of the same kind and subject that is there already is run anew.

    It is run at the second `after` (Unix time), or at once.
    """
    due = now if after is None else after
    fresh = {"run_after": due, "attempts": 0, "lease_token": None, "lease_until": None, "lease_holder": None}
    statement = upsert(session, JobRow).values(id=new_id(), kind=kind, subject=subject, **fresh)
    await session.execute(statement.on_conflict_do_update(index_elements=["kind", "subject"], set_=fresh))
    notify(session, TOPIC, kind)


async def enqueue_if_absent(
    session: AsyncSession, kind: str, subjects: Collection[str], *, now: int, run_now: bool = False
) -> None:
    """Asks for jobs that look for their work themselves: one that is there, waiting or running, is left alone.

    `hurry`: one that waits for its second waits no longer.
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


async def lease_is_valid(session: AsyncSession, lease: Lease) -> bool:
    """True while the lease is still this worker's; ask in the transaction that applies the work."""
    statement = select(JobRow).where(*_held(lease))
    return await session.scalar(for_update(statement)) is not None


async def finish(session: AsyncSession, lease: Lease) -> None:
    """Ends the job, if the lease is still this worker's. A handler that saw that no work is left may do it itself, in
    the transaction in which it saw that.
    """
    await session.execute(delete(JobRow).where(*_held(lease)))


async def postpone(session: AsyncSession, lease: Lease, until: int) -> None:
    """Gives the job back, to be run at the second `until`, if the lease is still this worker's. For handlers, as
    `finish` is; this was no attempt.
    """
    await session.execute(
        update(JobRow)
        .where(*_held(lease))
        .values(run_after=until, attempts=0, lease_token=None, lease_until=None, lease_holder=None)
    )


class Queue(NamedTuple):
    """The jobs of one kind."""

    kind: str
    total: int
    taken: int
    """Those that were taken by a worker and are not done."""
    run_after: int
    """Of the one that is due first; Unix seconds."""


async def queues(session: AsyncSession) -> list[Queue]:
    """What there is to do, by kind."""
    columns = JobRow.kind, func.count(), func.count(JobRow.lease_token), func.min(JobRow.run_after)
    rows = await session.execute(select(*columns).group_by(JobRow.kind).order_by(JobRow.kind))
    return [Queue(*row) for row in rows]


async def given_up(session: AsyncSession, limit: int, after: tuple[int, uuid.UUID] | None = None) -> list[GivenUpRow]:
    """The jobs that were given up, the latest first; `after`: the last one that was seen."""
    order = GivenUpRow.given_up_at, GivenUpRow.id
    statement = select(GivenUpRow).order_by(*(column.desc() for column in order)).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*order) < after)
    return list(await session.scalars(statement))


async def try_again(session: AsyncSession, given_up_id: uuid.UUID, *, now: int) -> GivenUpRow | None:
    """Asks for a job that was given up once more; None where there is no such one, or it was done since."""
    row = await session.get(GivenUpRow, given_up_id)
    if row is not None:
        await enqueue_if_absent(
            session, row.kind, [row.subject], now=now, run_now=True
        )  # first, as whoever gives one up
        await session.execute(delete(GivenUpRow).where(GivenUpRow.id == row.id))
    return row


async def forget_given_up(session: AsyncSession, *, now: int) -> None:
    """Those that were given up long ago."""
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
        """`holder` names the process's place (its data folder and address), so that a restart knows its own leases."""
        self._database = database
        self._handlers = handlers
        self._clock = clock
        self._holder = holder
        self._excused: dict[uuid.UUID, float] = {}
        """When a job was first kept from its end by an outage, as it has been ever since."""
        self._wake = asyncio.Event()
        self._looking = asyncio.Lock()
        self._loops = [
            Loop("claim or finish a job", self._take_and_run, every=0, retry=_REST_SECONDS, slow=math.inf)
            for _ in range(parallel)
        ]
        database.subscribe(TOPIC, self._told)

    async def start(self) -> None:
        """Frees what a process of the same place left behind, then works."""
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
        async with self._looking:  # one looks and waits; the others work, or queue up to be the next
            taken = await self._next()
        await self._work(*taken)
        self._wake.set()  # it may have left a job for later, and whoever waits does not know of its time

    async def _next(self) -> tuple[str, Lease]:
        while True:
            self._wake.clear()  # before looking: a job that comes meanwhile is not missed
            seconds = await self._due_in()
            if seconds <= 0:
                taken = await self._take()
                if taken is not None:
                    return taken
                seconds = _REST_SECONDS / 10  # another worker has it under its hand
            await wait(self._wake, min(seconds, POLL_SECONDS))

    async def _due_in(self) -> float:
        """Seconds until a job of this worker's is due, as far as is known now."""
        free = _free(int(self._clock()))
        statement = select(func.min(JobRow.run_after)).where(free, JobRow.kind.in_(self._handlers))
        async with self._database.read() as session:
            due = await session.scalar(statement)
        return POLL_SECONDS if due is None else due - self._clock()

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
        except asyncio.CancelledError:  # the process ends in good order: that is no attempt
            await self._give_back(lease, attempts=lease.attempt - 1, after=0)
            raise
        except TryAgainError as again:
            await self._give_back(lease, attempts=lease.attempt - 1, after=again.after)
        except Exception as error:
            is_outage = outages.outage_of(error) is not None
            if is_outage and self._is_excused(lease):  # it passes, and says nothing against the job
                outages.report("a job failed", error, kind=kind, subject=lease.subject)
                await self._give_back(lease, attempts=lease.attempt - 1, after=_OUTAGE_SECONDS)
                return
            # A handler does not give up at an outage, so that it is called once more, as one that is hopeless.
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
        """Leaves the job to whoever takes it next, `after` seconds from now at the earliest."""
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
        """Ends the job and keeps why, unless the lease is another's by now."""
        self._excused.pop(lease.job_id, None)
        why = {"attempts": lease.attempt, "error": _in_a_line(error), "given_up_at": int(self._clock())}
        async with self._database.write() as session:
            if not await lease_is_valid(session, lease):
                return
            await finish(session, lease)
            statement = upsert(session, GivenUpRow).values(id=new_id(), kind=kind, subject=lease.subject, **why)
            await session.execute(statement.on_conflict_do_update(index_elements=["kind", "subject"], set_=why))

    async def _update(self, lease: Lease, **values: Any) -> None:
        """Changes nothing when the lease is another's by now."""
        async with self._database.write() as session:
            await session.execute(update(JobRow).where(*_held(lease)).values(**values))


def _in_a_line(error: Exception) -> str:
    """What a database says of its driver's error, without the statement and its values."""
    said = getattr(error, "orig", None) or error
    words = f"{type(error).__name__}: {said}"
    return "".join(each if each.isprintable() else " " for each in words[:_LONGEST_ERROR])


def _retry_seconds(attempt: int) -> int:
    return round(delay(attempt, 2, 2**MAX_ATTEMPTS, jitter=(1, 1)))


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return JobRow.id == lease.job_id, JobRow.lease_token == lease.token


def _free(now: int) -> ColumnElement[bool]:
    """Nobody works on it."""
    return or_(JobRow.lease_until.is_(None), JobRow.lease_until < now)
