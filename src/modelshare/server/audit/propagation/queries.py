"""All queries for processes and their confirmations."""

import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    SQLColumnExpression,
    and_,
    delete,
    exists,
    literal,
    null,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.tables import AuditRow, ConfirmationRow, ProcessRow
from modelshare.server.db import any_tenant, now_ms, upsert

_BATCH = 1000
"""IDs per statement, below the databases' limit of variables."""
Answers = dict[str, int | None]
"""By process: when it confirmed (milliseconds of the database's clock), or None."""


async def answers(session: AsyncSession, audit_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Answers]:
    """The processes that confirmed these changes, in order of time, then running ones that still have to."""
    if not audit_ids:
        return {}
    given = select(ConfirmationRow.audit_id, ConfirmationRow.process, ConfirmationRow.at_ms)
    owing = select(any_tenant(AuditRow).id, ProcessRow.name, null()).join(
        ProcessRow, _owes(ProcessRow.name, ProcessRow.started_ms)
    )
    statement: CompoundSelect[uuid.UUID, str, int | None] = union_all(
        given.where(ConfirmationRow.audit_id.in_(audit_ids)), owing.where(AuditRow.id.in_(audit_ids))
    )
    found: dict[uuid.UUID, Answers] = defaultdict(dict)
    rows = (await session.execute(statement)).all()
    for audit_id, process, at_ms in sorted(rows, key=lambda row: (row[2] is None, row[2], row[1])):
        found[audit_id][process] = at_ms
    return found


async def owed(
    session: AsyncSession, process: str, *, started_ms: int, since_ms: int, overdue_ms: int
) -> Sequence[uuid.UUID]:
    """Changes of the last `since_ms` that the process should have confirmed `overdue_ms` ago."""
    now = now_ms(session)
    return (
        await session.scalars(
            select(any_tenant(AuditRow).id).where(
                AuditRow.changed_ms >= now - since_ms,
                AuditRow.changed_ms <= now - overdue_ms,
                _owes(literal(process), literal(started_ms)),
            )
        )
    ).all()


async def confirm(session: AsyncSession, process: str, audit_ids: Collection[uuid.UUID]) -> None:
    """Stores that the process applies these changes. Keeps the time of the first confirmation."""
    names, ids = ["audit_id", "process", "at_ms"], list(audit_ids)
    for offset in range(0, len(ids), _BATCH):
        these = AuditRow.id.in_(ids[offset : offset + _BATCH])
        heard = select(any_tenant(AuditRow).id, literal(process), now_ms(session)).where(these)
        await session.execute(upsert(session, ConfirmationRow).from_select(names, heard).on_conflict_do_nothing())


async def see(session: AsyncSession, process: str, address: str, version: str, started_ms: int | None) -> int:
    """Stores that the process is running. `started_ms` None: it starts now. Returns its start time (database's
    clock)."""
    now = now_ms(session)
    statement = upsert(session, ProcessRow).values(
        name=process,
        address=address,
        version=version,
        started_ms=now if started_ms is None else started_ms,
        seen_ms=now,
    )
    statement = statement.on_conflict_do_update(index_elements=["name"], set_={"seen_ms": now})
    return (await session.execute(statement.returning(ProcessRow.started_ms))).scalar_one()


async def forget_dead(session: AsyncSession, dead_ms: int) -> bool:
    """Deletes processes that were not seen for `dead_ms`; whether there were any."""
    statement = delete(ProcessRow).where(ProcessRow.seen_ms < now_ms(session) - dead_ms)
    return bool((await session.scalars(statement.returning(ProcessRow.name))).all())


async def leave(session: AsyncSession, process: str) -> None:
    await session.execute(update(ProcessRow).where(ProcessRow.name == process).values(is_leaving=True))


async def running(session: AsyncSession, limit: int) -> list[str]:
    """Names of processes that are not about to stop, oldest first."""
    order = ProcessRow.started_ms, ProcessRow.name
    statement = select(ProcessRow.name).where(ProcessRow.is_leaving.is_(False)).order_by(*order).limit(limit)
    return list(await session.scalars(statement))


async def forget_place(session: AsyncSession, address: str) -> None:
    """Deletes an earlier process at this address."""
    await session.execute(delete(ProcessRow).where(ProcessRow.address == address))


async def forget(session: AsyncSession, process: str) -> None:
    await session.execute(delete(ProcessRow).where(ProcessRow.name == process))


async def processes(session: AsyncSession, limit: int, after: tuple[int, str] | None) -> list[ProcessRow]:
    """Oldest first."""
    order = (ProcessRow.started_ms, ProcessRow.name)
    statement = select(ProcessRow).order_by(*order).limit(limit)
    return list(await session.scalars(statement.where(tuple_(*order) > tuple_(*after)) if after else statement))


def _owes(process: SQLColumnExpression[str], started_ms: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """The process ran when the audit row's change was made, and has not confirmed it."""
    confirmed = exists().where(ConfirmationRow.audit_id == AuditRow.id, ConfirmationRow.process == process)
    return and_(AuditRow.changed_ms >= started_ms, ~confirmed)
