"""All queries for the audit log."""

import uuid

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import any_tenant, scoped_to
from modelshare.wire.usage import AuditFilter


async def entries(
    session: AsyncSession, project_id: str | None, where: AuditFilter, limit: int, after: uuid.UUID | None
) -> list[AuditRow]:
    """Newest first, of one project or (None) of the platform itself."""
    if project_id is None:
        statement = select(any_tenant(AuditRow)).where(AuditRow.project_id.is_(None))
    else:
        statement = scoped_to(AuditRow, project_id)
    if after:
        statement = statement.where(AuditRow.id < after)
    statement = statement.where(*_conditions(where)).order_by(AuditRow.id.desc()).limit(limit)
    return list(await session.scalars(statement))


def _conditions(where: AuditFilter) -> list[ColumnElement[bool]]:
    found = []
    if where.action:
        is_whole = "." in where.action
        found.append(
            AuditRow.action == where.action
            if is_whole
            else AuditRow.action.startswith(f"{where.action}.", autoescape=True)
        )
    if where.actor:
        found.append(AuditRow.actor == where.actor)
    if where.target:
        found.append(AuditRow.target == where.target)
    if where.outcome:
        found.append(AuditRow.outcome == where.outcome)
    return found
