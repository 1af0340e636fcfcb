"""Garbage collection: unneeded bytes are recorded in the transaction that drops them; a job deletes them afterwards."""

import uuid
from collections.abc import Collection, Iterable

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import Platform
from modelshare.server.jobs import Lease, enqueue, enqueue_if_absent, postpone
from modelshare.server.registry.blobs import queries
from modelshare.server.registry.blobs.staging import prefixes
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.storages.credentials import forget_unused
from modelshare.server.registry.tables import GarbageRow, StagedFileRow, UploadRow
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage_errors import StorageError
from modelshare.wire.uploads import UploadState

log = structlog.get_logger()

_BATCH = 500
COLLECT = "registry.collect"
"""The job that deletes garbage; its subject is the project's ID."""


async def release(session: AsyncSession, project_id: str, version_ids: Collection[uuid.UUID], *, now: int) -> None:
    """Discards the bytes of these versions. Call it in the transaction that deletes them, with the model locked."""
    for upload in await queries.sessions_of(session, version_ids):
        if upload.state == UploadState.OPEN:
            upload.state = UploadState.CANCELLED
        await discard_staged(session, upload, now=now)
    await collect_later(session, project_id, now=now)


async def discard_unused(session: AsyncSession, project_id: str) -> int:
    """Turns unused blobs of a locked project into garbage, which does not count against its quota.

    Objects that lie in place are only forgotten. Returns the number of blobs; call it until that is 0.
    """
    rows = await queries.unused_blobs(session, project_id, _BATCH)
    kept = await storages.read_only(session, project_id) if rows else set()
    for row in rows:
        if row.pin is None and row.storage not in kept:
            session.add(GarbageRow(project_id=project_id, storage=row.storage, key=row.key))
        await session.delete(row)
    await session.flush()
    return len(rows)


async def discard_left(session: AsyncSession, project_id: str, storage: str, *, after: int) -> None:
    """Has unused blobs of a storage that versions of a locked project were moved from deleted at `after`."""
    while rows := await queries.unused_blobs(session, project_id, _BATCH, storage=storage):
        for row in rows:
            if row.pin is None:
                session.add(GarbageRow(project_id=project_id, storage=storage, key=row.key, not_before=after))
            await session.delete(row)
        await session.flush()
    await enqueue_if_absent(session, COLLECT, [project_id], now=after)


async def discard_keys(session: AsyncSession, project_id: str, storage: str, keys: Iterable[str], *, now: int) -> None:
    """Deletes these bytes once this transaction is committed. A key that ends in `/` means everything below it."""
    session.add_all(GarbageRow(project_id=project_id, storage=storage, key=key) for key in keys)
    await collect_later(session, project_id, now=now)


async def discard_staged(session: AsyncSession, upload: UploadRow, *, now: int) -> None:
    """Discards what a session uploaded, unless it was turned into blobs, and releases the blobs that it reused."""
    found = await queries.delete_staged_files(session, upload.id)
    await discard(session, upload, prefixes(upload.project_id, upload.id, found) if found else [], now=now)


async def discard(session: AsyncSession, upload: UploadRow, keys: Iterable[str], *, now: int) -> None:
    """Like `discard_keys`, for bytes that the session uploaded."""
    await discard_keys(session, upload.project_id, upload.storage, keys, now=now)


async def discard_sent_ahead(session: AsyncSession, row: StagedFileRow, *, now: int) -> None:
    """Like `discard_keys`, for the bytes of a file that was sent ahead."""
    await discard_keys(session, row.project_id, row.storage, [f"{row.key.rpartition('/')[0]}/"], now=now)


async def collect_later(session: AsyncSession, project_id: str, *, now: int) -> None:
    """Enqueues the deletion of the project's garbage and unused blobs, once this transaction is committed."""
    await enqueue(session, COLLECT, project_id, now=now)


async def collect(platform: Platform, lease: Lease) -> None:
    """Turns the project's unused blobs into garbage, then deletes its garbage: first the bytes, then the row.

    An error does not prevent other deletions; the last one is raised at the end, so that the job is retried.
    """
    project_id = lease.subject
    while await _discard_batch(platform, project_id):
        continue
    failed: Exception | None = None
    after = uuid.UUID(int=0)
    while rows := await _garbage(platform, project_id, after):
        deleted = []
        for row in rows:
            try:
                await _delete(await platform.stores.get(row.storage), row.key)
                deleted.append(row.id)
            except (StorageError, OSError) as error:
                log.warning("cannot delete from the storage", key=row.key, error=str(error))
                failed = error
        async with platform.database.write() as session:
            await queries.delete_garbage(session, deleted)
        after = rows[-1].id
    if failed is not None:
        raise failed
    async with platform.database.write() as session:
        await queries.lock_project(session, project_id)
        await forget_unused(session, project_id)
        if (due := await queries.next_due(session, project_id)) is not None:
            await postpone(session, lease, due)


async def _discard_batch(platform: Platform, project_id: str) -> int:
    async with platform.database.write() as session:
        await queries.lock_project(session, project_id)
        return await discard_unused(session, project_id)


async def _garbage(platform: Platform, project_id: str, after: uuid.UUID) -> list[GarbageRow]:
    async with platform.database.read() as session:
        return await queries.garbage(session, project_id, _BATCH, now=platform.now(), after=after)


async def _delete(store: BlobStore, key: str) -> None:
    if key.endswith("/"):
        await store.delete_prefix(key.rstrip("/"))
    else:
        await store.delete(key)
