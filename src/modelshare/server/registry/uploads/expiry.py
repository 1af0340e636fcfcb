"""Ends upload sessions that were not completed: cancelled by their owner, or expired."""

import uuid

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM
from modelshare.server.errors import ConflictError
from modelshare.server.http import Caller, Platform
from modelshare.server.outages import is_database_away
from modelshare.server.registry import queries as models
from modelshare.server.registry.blobs import disposal
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.tables import UploadRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.progress import view
from modelshare.server.registry.uploads.service import find, record
from modelshare.wire.errors import ErrorCode
from modelshare.wire.uploads import Upload, UploadState

log = structlog.get_logger()

_MAX_AT_ONCE = 100


async def cancel(platform: Platform, caller: Caller, upload_id: str) -> Upload:
    """Deletes the session's bytes and version, and the model if it has no other version. Safe to repeat."""
    async with platform.database.read() as session:
        row = await find(session, caller, upload_id)
    closed = await _close(platform, row, UploadState.CANCELLED, caller.actor)
    if closed.state == UploadState.COMPLETED:
        raise ConflictError(
            "This upload is completed, so there is nothing to cancel. Delete the model instead, or this version of it.",
            code=ErrorCode.UPLOAD_NOT_OPEN,
        )
    row.state, row.files = closed.state, []
    return await view(platform, row)


async def end_expired(platform: Platform) -> None:
    """Ends sessions that have expired; an error of one does not affect the others. Run it about every minute."""
    after = uuid.UUID(int=0)
    while True:
        async with platform.database.read() as session:
            rows = await queries.expired(session, platform.now(), _MAX_AT_ONCE, after=after)
        for row in rows:
            try:
                await _close(platform, row, UploadState.EXPIRED, SYSTEM)
            except Exception as error:
                if is_database_away(error):
                    raise
                log.warning("cannot end an upload that has expired", upload=str(row.id), exc_info=error)
            else:
                log.info("upload expired", upload=str(row.id))
        if len(rows) < _MAX_AT_ONCE:
            return
        after = rows[-1].id


async def collect_garbage(platform: Platform) -> None:
    """Enqueues the deletion of garbage that has no job yet. Run it about every minute."""
    async with platform.database.write() as session:
        for project_id in await blobs.projects_with_garbage(session, disposal.COLLECT, now=platform.now()):
            await disposal.collect_later(session, project_id, now=platform.now())


async def _close(platform: Platform, row: UploadRow, state: UploadState, actor: str) -> UploadRow:
    """Ends the session if it is still open (and, for EXPIRED, still overdue). Returns its current row."""
    now = platform.now()
    async with platform.database.write() as session:
        await models.lock_model(session, row.model_id)
        locked = await queries.lock_upload(session, row.id)
        overdue = state != UploadState.EXPIRED or locked.expires_at <= now
        if locked.state == UploadState.OPEN and overdue:
            locked.state = state
            await _delete_uploaded(session, locked, now)
            action = "upload.cancel" if state == UploadState.CANCELLED else "upload.expire"
            record(session, action, locked, actor, now)
    return locked


async def _delete_uploaded(session: AsyncSession, row: UploadRow, now: int) -> None:
    await disposal.discard_staged(session, row, now=now)
    version_id, row.version_id = row.version_id, None
    await session.flush()
    await models.delete_version(session, version_id)
    if not await queries.has_versions(session, row.model_id):
        await models.delete_model(session, row.model_id)
