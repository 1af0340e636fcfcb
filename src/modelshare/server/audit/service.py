"""The audit log and the outbox: written in the transaction of the change they tell of."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit import events
from modelshare.server.audit.tables import AuditRow, OutboxRow
from modelshare.server.db import notify, owned
from modelshare.server.http import Paging, encode_cursor
from modelshare.wire.base import Page
from modelshare.wire.usage import AuditEntry

SYSTEM = "system"
"""The actor of what the platform does by itself."""
OUTBOX_TOPIC = "outbox"
"""Notification that events wait for their deliveries to be written."""


def record(
    session: AsyncSession,
    *,
    project_id: str | None,
    now: int,
    actor: str,
    action: str,
    target: str,
    reason: str | None = None,
    refused: bool = False,
    **details: Any,
) -> None:
    """Adds a row: `action` reads `subject.verb`, `target` reads `subject:<id>`.

    What was done is an event too, where `events.OF_ACTIONS` has a name for it.
    """
    session.add(
        AuditRow(
            project_id=project_id,
            at=now,
            actor=actor,
            action=action,
            target=target,
            outcome="refused" if refused else "done",
            reason=reason,
            details=details,
        )
    )
    event = None if refused else events.OF_ACTIONS.get(action)
    if event is not None and project_id is not None:
        emit(session, project_id=project_id, now=now, event=event, data=events.data_of(target, reason, details))


def emit(session: AsyncSession, *, project_id: str, now: int, event: str, data: dict[str, Any]) -> None:
    """Tells the project's webhooks of something, once and only if this transaction commits."""
    session.add(OutboxRow(project_id=project_id, type=event, at=now, data=data))
    notify(session, OUTBOX_TOPIC, "*")


async def page(session: AsyncSession, project_id: str | None, paging: Paging) -> Page[AuditEntry]:
    """The newest entries first, of one project or (None) of the platform itself."""
    if project_id is None:
        statement = select(AuditRow).where(AuditRow.project_id.is_(None))
    else:
        statement = owned(AuditRow, project_id)
    if paging.after_id:
        statement = statement.where(AuditRow.id < paging.after_id)
    rows = list(await session.scalars(statement.order_by(AuditRow.id.desc()).limit(paging.limit + 1)))
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    return Page(
        data=[_entry(row) for row in rows], has_more=more, next_cursor=encode_cursor(str(rows[-1].id)) if more else None
    )


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=str(row.id),
        at=row.at,
        actor=row.actor,
        action=row.action,
        target=row.target,
        outcome="refused" if row.outcome == "refused" else "done",
        reason=row.reason,
        details=row.details,
    )
