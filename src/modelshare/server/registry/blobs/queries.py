"""All queries for blobs and garbage of a project."""

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import any_tenant, for_update, scoped_to, skip_locked, upsert
from modelshare.server.jobs import JobRow
from modelshare.server.registry.tables import (
    BlobRow,
    DeletionHoldRow,
    FileRow,
    GarbageRow,
    StagedFileRow,
    UploadFileRow,
    UploadRow,
    key_of,
)
from modelshare.server.storage.stores import PLATFORM

Value = TypeVar("Value")
_MAX_PARAMETERS = 5_000
"""Per statement; SQLite allows 32,766 and PostgreSQL's protocol 65,535."""


async def lock_project(session: AsyncSession, project_id: str) -> ProjectRow:
    """Locks the project's blobs for the transaction.

    Both reusing a stored blob and discarding unused ones require this lock, so that a blob is never discarded while a
    version starts to use it. Take it before the model's lock.
    """
    return (await session.scalars(for_update(select(ProjectRow).where(ProjectRow.id == project_id)))).one()


async def project(session: AsyncSession, project_id: str) -> ProjectRow:
    return await session.get_one(ProjectRow, project_id)


async def stored_bytes(session: AsyncSession, project_id: str) -> int:
    """Bytes on the platform's storage: of its blobs, and of files of open uploads, sent or not, and sent ahead.

    Bytes in a storage of the project's own do not count against its quota.
    """
    of_project = select(func.sum(BlobRow.size)).where(BlobRow.project_id == project_id)
    blobs = await session.scalar(of_project.where(BlobRow.storage == PLATFORM))
    staged = await session.scalar(_staged_bytes().where(UploadRow.project_id == project_id))
    sent_ahead = select(func.sum(StagedFileRow.size)).where(StagedFileRow.project_id == project_id)
    ahead = await session.scalar(sent_ahead.where(StagedFileRow.storage == PLATFORM))
    return int(blobs or 0) + int(staged or 0) + int(ahead or 0)


async def stored_blobs(
    session: AsyncSession, project_id: str, storage: str, digests: Iterable[str]
) -> dict[str, BlobRow]:
    """The project's blobs in this storage with these digests, by digest."""
    found: dict[str, BlobRow] = {}
    for batch in _batches(sorted(set(digests))):
        statement = scoped_to(BlobRow, project_id).where(BlobRow.storage == storage, BlobRow.sha256.in_(batch))
        found.update((row.sha256, row) for row in await session.scalars(statement))
    return found


async def stored_anywhere(
    session: AsyncSession, project_id: str, digests: Iterable[str], *, rather_not: Collection[str] = ()
) -> dict[str, BlobRow]:
    """One of the project's blobs with each of these digests, by digest. `rather_not`: storages to use last."""
    found: dict[str, BlobRow] = {}
    for batch in _batches(sorted(set(digests))):
        rows = await session.scalars(scoped_to(BlobRow, project_id).where(BlobRow.sha256.in_(batch)))
        found.update((row.sha256, row) for row in sorted(rows, key=lambda row: row.storage not in rather_not))
    return found


async def prove(session: AsyncSession, project_id: str, storage: str, digests: Iterable[str], at: int) -> None:
    """Stores that these blobs were read and verified at this time."""
    for batch in _batches(sorted(set(digests))):
        this = BlobRow.project_id == project_id, BlobRow.storage == storage, BlobRow.sha256.in_(batch)
        await session.execute(update(any_tenant(BlobRow)).where(*this).values(proven_at=at))


async def stored_sizes(session: AsyncSession, project_id: str, storage: str, sizes: Iterable[int]) -> set[int]:
    """Those of the sizes that a blob of the project has in this storage."""
    found: set[int] = set()
    for batch in _batches(sorted(set(sizes))):
        statement = select(BlobRow.size).where(BlobRow.project_id == project_id, BlobRow.size.in_(batch)).distinct()
        rows = await session.scalars(statement.where(BlobRow.storage == storage))
        found.update(rows)
    return found


async def unused_blobs(
    session: AsyncSession, project_id: str, limit: int, *, storage: str | None = None
) -> list[BlobRow]:
    """Blobs that no version has and no session reuses; only of `storage`, if that is given."""
    in_version = (
        exists()
        .where(FileRow.project_id == BlobRow.project_id, FileRow.sha256 == BlobRow.sha256)
        .where(FileRow.storage == BlobRow.storage)
    )
    statement = scoped_to(BlobRow, project_id).where(~in_version, ~in_session()).limit(limit)
    return list(await session.scalars(statement if storage is None else statement.where(BlobRow.storage == storage)))


async def bytes_only_of(session: AsyncSession, project_id: str, version_id: uuid.UUID) -> int:
    """Bytes of blobs on the platform's storage that only this version has."""
    other = aliased(FileRow)
    in_this = exists().where(
        FileRow.version_id == version_id, FileRow.storage == PLATFORM, FileRow.sha256 == BlobRow.sha256
    )
    in_other = (
        exists()
        .where(other.project_id == BlobRow.project_id, other.storage == PLATFORM, other.sha256 == BlobRow.sha256)
        .where(other.version_id != version_id)
    )
    statement = select(func.sum(BlobRow.size)).where(
        BlobRow.project_id == project_id, BlobRow.storage == PLATFORM, in_this, ~in_other, ~in_session()
    )
    return int(await session.scalar(statement) or 0)


async def staged_bytes_of(session: AsyncSession, version_id: uuid.UUID) -> int:
    """Bytes of the version's upload to the platform's storage that are not blobs yet."""
    return int(await session.scalar(_staged_bytes().where(UploadRow.version_id == version_id)) or 0)


async def forget(session: AsyncSession, project_id: str, storage: str, digests: Iterable[str]) -> None:
    """Deletes these blobs' rows, not their bytes."""
    for batch in _batches(sorted(set(digests))):
        this = BlobRow.project_id == project_id, BlobRow.storage == storage, BlobRow.sha256.in_(batch)
        await session.execute(delete(any_tenant(BlobRow)).where(*this))


async def sessions_of(session: AsyncSession, version_ids: Collection[uuid.UUID]) -> list[UploadRow]:
    return list(await session.scalars(select(any_tenant(UploadRow)).where(UploadRow.version_id.in_(version_ids))))


async def garbage(
    session: AsyncSession, project_id: str, limit: int, *, now: int, after: uuid.UUID
) -> list[GarbageRow]:
    """What may be deleted now, ordered by ID."""
    statement = scoped_to(GarbageRow, project_id).where(GarbageRow.id > after, _is_due(now)).order_by(GarbageRow.id)
    return list(await session.scalars(statement.limit(limit)))


async def next_due(session: AsyncSession, project_id: str) -> int | None:
    """When the first of the project's garbage that has to be kept for now may be deleted."""
    due = await session.scalar(select(func.min(GarbageRow.not_before)).where(GarbageRow.project_id == project_id))
    held = await session.scalar(select(func.max(DeletionHoldRow.until)))
    return due if due is None or held is None else max(due, held)


async def projects_with_garbage(session: AsyncSession, job: str, *, now: int) -> list[str]:
    """Projects with garbage that may be deleted now and without a pending `job`.

    Ordered by ID, so that jobs are always inserted in the same order.
    """
    pending = exists().where(JobRow.kind == job, JobRow.subject == GarbageRow.project_id)
    statement = select(any_tenant(GarbageRow).project_id).where(~pending, _is_due(now)).distinct()
    return list(await session.scalars(statement.order_by(GarbageRow.project_id)))


async def hold_deletions(session: AsyncSession, hold_id: uuid.UUID, *, until: int) -> None:
    """Has nothing deleted from storage before `until` (Unix seconds). Call it again to prolong the hold."""
    statement = upsert(session, DeletionHoldRow).values(id=hold_id, until=until)
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"until": until}))


async def end_hold(session: AsyncSession, hold_id: uuid.UUID, *, now: int) -> None:
    """Ends the hold, and forgets those that have expired."""
    await session.execute(
        delete(DeletionHoldRow).where((DeletionHoldRow.id == hold_id) | (DeletionHoldRow.until <= now))
    )


def _is_due(now: int) -> ColumnElement[bool]:
    return and_(func.coalesce(GarbageRow.not_before, 0) <= now, ~exists().where(DeletionHoldRow.until > now))


def in_session() -> ColumnElement[bool]:
    """Whether a session reuses the blob."""
    return (
        exists()
        .where(UploadFileRow.reused, UploadFileRow.sha256 == BlobRow.sha256)
        .where(UploadRow.id == UploadFileRow.upload_id, UploadRow.project_id == BlobRow.project_id)
        .where(UploadRow.storage == BlobRow.storage)
    )


def _staged_bytes() -> Select[int | None]:
    """Bytes that sessions bring to the platform's storage and that are not blobs yet."""
    return (
        select(func.sum(UploadFileRow.size))
        .join(UploadRow, UploadRow.id == UploadFileRow.upload_id)
        .where(UploadRow.storage == PLATFORM, UploadFileRow.reused.is_(False))
    )


def _batches(values: Sequence[Value]) -> Iterator[list[Value]]:
    rest = iter(values)
    while batch := list(islice(rest, _MAX_PARAMETERS)):
        yield batch


async def delete_staged_files(session: AsyncSession, upload_id: uuid.UUID) -> list[str]:
    """Deletes the rows of a session's files; the keys that they had."""
    there = delete(UploadFileRow).where(UploadFileRow.upload_id == upload_id).returning(UploadFileRow.key)
    return list(await session.scalars(there))


async def staged_ahead(
    session: AsyncSession, project_id: str, storage: str, name: str, digests: Iterable[str]
) -> dict[str, StagedFileRow]:
    """The files in this storage with these digests that were sent ahead for the model `name`, by digest."""
    found: dict[str, StagedFileRow] = {}
    for batch in _batches(sorted(set(digests))):
        statement = scoped_to(StagedFileRow, project_id).where(StagedFileRow.storage == storage)
        statement = statement.where(StagedFileRow.name_key == key_of(name))
        rows = await session.scalars(statement.where(StagedFileRow.sha256.in_(batch)))
        found.update((row.sha256, row) for row in rows)
    return found


async def staged_by_id(session: AsyncSession, staged_id: uuid.UUID) -> StagedFileRow | None:
    return await session.scalar(select(any_tenant(StagedFileRow)).where(StagedFileRow.id == staged_id))


async def expired_staged(session: AsyncSession, now: int, limit: int) -> list[StagedFileRow]:
    """Of all projects."""
    statement = select(any_tenant(StagedFileRow)).where(StagedFileRow.expires_at <= now)
    return list(await session.scalars(skip_locked(statement.order_by(StagedFileRow.id).limit(limit))))


async def delete_garbage(session: AsyncSession, ids: Collection[uuid.UUID]) -> None:
    await session.execute(delete(any_tenant(GarbageRow)).where(GarbageRow.id.in_(ids)))
