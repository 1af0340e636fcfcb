"""Deletes records that are older than the settings keep them, a few hundred at a time; what is still needed stays."""

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import Select, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.tables import KeyRow
from modelshare.server.audit.tables import AuditRow, ConfirmationRow
from modelshare.server.db import Table, any_tenant
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.fleet.tables import AgentRow, DeploymentRow, JoinKeyRow, WeightDeletionRow
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.moves.tables import MoveRow
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.wire.uploads import UploadState

STEP = 500
"""Most rows of a transaction."""


async def audit_entries(session: AsyncSession, *, before: int, after: uuid.UUID | None = None) -> Sequence[AuditRow]:
    """The oldest entries, of all projects; `after`: the last one of the previous page.

    IDs are ordered by time, so the search ends with the first entries that are too young, without an index of times.
    """
    statement = select(any_tenant(AuditRow)).order_by(AuditRow.id).limit(STEP)
    rows = await session.scalars(statement if after is None else statement.where(AuditRow.id > after))
    return [row for row in rows if row.at < before]


async def forget_audit_entries(session: AsyncSession, ids: Collection[uuid.UUID]) -> None:
    await session.execute(delete(any_tenant(AuditRow)).where(AuditRow.id.in_(ids)))


async def forget_confirmations(session: AsyncSession, before: int) -> int:
    """The changes no longer ask for confirmations: none of those that are missing is pending any more."""
    statement = select(any_tenant(AuditRow).id, AuditRow.at).where(AuditRow.changed_ms.is_not(None))
    rows = await session.execute(statement.order_by(AuditRow.changed_ms).limit(STEP))
    ids = [id_ for id_, at in rows if at < before]
    await session.execute(delete(ConfirmationRow).where(ConfirmationRow.audit_id.in_(ids)))
    await session.execute(update(any_tenant(AuditRow)).where(AuditRow.id.in_(ids)).values(changed_ms=None))
    return len(ids)


async def forget_keys(session: AsyncSession, before: int) -> int:
    """Keys that were revoked or have expired, unless usage names them."""
    ended = (KeyRow.revoked_at < before) | (KeyRow.expires_at < before)
    # Not EXISTS: usage has no index of keys, so SQLite would read all of it again for every key.
    used = select(any_tenant(UsageRow).key_id).distinct()
    return await _forget(session, KeyRow, select(any_tenant(KeyRow).id).where(ended, KeyRow.id.not_in(used)))


async def forget_join_keys(session: AsyncSession, before: int) -> int:
    ended = (JoinKeyRow.revoked_at < before) | (JoinKeyRow.expires_at < before)
    return await _forget(session, JoinKeyRow, select(any_tenant(JoinKeyRow).id).where(ended))


async def forget_agents(session: AsyncSession, before: int) -> int:
    """Removed agents, unless they are still to delete weights, or hold files. That the owner has stopped waiting for
    a deletion does not end it: an agent that comes back deletes the weights only if it is told that it was removed.
    """
    last_seen = func.coalesce(AgentRow.last_seen_at, AgentRow.created_at)
    deleting = exists().where(
        any_tenant(WeightDeletionRow).agent_id == AgentRow.id, WeightDeletionRow.confirmed_at.is_(None)
    )
    needed = (
        deleting
        | exists().where(DeploymentRow.agent_id == AgentRow.id)
        | exists().where(any_tenant(StorageRow).holder_id == AgentRow.id)
    )
    removed = select(any_tenant(AgentRow).id).where(AgentRow.state == "removed", last_seen < before, ~needed)
    return await _forget(session, AgentRow, removed)


async def forget_uploads(session: AsyncSession, before: int) -> int:
    """Uploads that ended, unless their files are still to become blobs."""
    files = exists().where(UploadFileRow.upload_id == UploadRow.id)
    closed = [state for state in UploadState if state != UploadState.OPEN]
    ended = select(any_tenant(UploadRow).id).where(UploadRow.state.in_(closed), UploadRow.expires_at < before, ~files)
    return await _forget(session, UploadRow, ended)


async def forget_imports(session: AsyncSession, before: int) -> int:
    return await _forget(session, ImportRow, select(any_tenant(ImportRow).id).where(ImportRow.ended_at < before))


async def forget_moves(session: AsyncSession, before: int) -> int:
    return await _forget(session, MoveRow, select(any_tenant(MoveRow).id).where(MoveRow.ended_at < before))


async def forget_weight_deletions(session: AsyncSession, before: int) -> int:
    """Deletions of weights that were confirmed, or whose owner stopped waiting."""
    ended = func.coalesce(WeightDeletionRow.confirmed_at, WeightDeletionRow.closed_at)
    old = select(any_tenant(WeightDeletionRow).deployment_id).where(ended < before)
    return await _forget(session, WeightDeletionRow, old)


async def _forget(session: AsyncSession, table: type[Table], old: Select[uuid.UUID]) -> int:
    """Deletes up to STEP of the rows with these primary keys; returns how many."""
    ids = list(await session.scalars(old.limit(STEP)))
    [key] = table.__table__.primary_key
    await session.execute(delete(any_tenant(table)).where(key.in_(ids)))
    return len(ids)
