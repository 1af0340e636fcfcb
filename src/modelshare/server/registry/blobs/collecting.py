"""The job that deletes what nobody refers to any more."""

import uuid

import structlog
from sqlalchemy import delete

from modelshare.server.db import any_tenant
from modelshare.server.http import Platform
from modelshare.server.jobs import Lease
from modelshare.server.registry.blobs import queries
from modelshare.server.registry.blobs.disposal import let_go_of_unused
from modelshare.server.registry.tables import GarbageRow
from modelshare.server.storage.base import BlobStore, StorageError

log = structlog.get_logger()

_BATCH = 500


async def collect(platform: Platform, lease: Lease) -> None:
    """Turns the project's unused blobs into garbage, then deletes its garbage: the bytes first, then the note.

    What cannot be deleted keeps nothing else; its error is raised in the end, so that the job is run again.
    """
    project_id = lease.subject
    while await _let_go_of_unused(platform, project_id):
        continue
    failed: Exception | None = None
    after = uuid.UUID(int=0)
    while rows := await _garbage(platform, project_id, after):
        gone = []
        for row in rows:
            try:
                await _delete(platform.store, row.key)
                gone.append(row.id)
            except (StorageError, OSError) as error:
                log.warning("cannot delete from the storage", key=row.key, error=str(error))
                failed = error
        async with platform.database.write() as session:
            await session.execute(delete(any_tenant(GarbageRow)).where(GarbageRow.id.in_(gone)))
        after = rows[-1].id
    if failed is not None:
        raise failed


async def _let_go_of_unused(platform: Platform, project_id: str) -> int:
    async with platform.database.write() as session:
        await queries.lock_project(session, project_id)
        return await let_go_of_unused(session, project_id)


async def _garbage(platform: Platform, project_id: str, after: uuid.UUID) -> list[GarbageRow]:
    async with platform.database.read() as session:
        return await queries.garbage(session, project_id, _BATCH, after=after)


async def _delete(store: BlobStore, key: str) -> None:
    if key.endswith("/"):
        await store.delete_prefix(key.rstrip("/"))
    else:
        await store.delete(key)
