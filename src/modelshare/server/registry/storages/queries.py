"""Queries of the storages of projects."""

import uuid
from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from modelshare.server.db import Table, any_tenant, for_update, scoped_to
from modelshare.server.registry.blobs.queries import in_session
from modelshare.server.registry.moves.tables import MoveRow
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.registry.tables import (
    BlobRow,
    FileRow,
    RegisteredFileRow,
    UploadFileRow,
    UploadRow,
    VersionRow,
)
from modelshare.server.storage.stores import PLATFORM
from modelshare.wire.storage import MoveState


async def current(session: AsyncSession, project_id: str, *, lock: bool = False) -> StorageRow | None:
    """The storage that new pushes of this project go to; None: the platform's."""
    is_current = StorageRow.writable, StorageRow.replaced_at.is_(None)
    statement = scoped_to(StorageRow, project_id).where(*is_current)
    return await session.scalar(for_update(statement) if lock else statement)


async def current_id(session: AsyncSession, project_id: str) -> str:
    """As rows name it."""
    row = await current(session, project_id)
    return row.id.hex if row is not None else PLATFORM


async def at(session: AsyncSession, project_id: str, url: str, endpoint: str) -> StorageRow | None:
    """The project's storage there, whether new pushes go to it or not."""
    is_there = StorageRow.url == url, StorageRow.endpoint == endpoint, StorageRow.writable
    return await session.scalar(scoped_to(StorageRow, project_id).where(StorageRow.kind == "bucket", *is_there))


async def registered_at(
    session: AsyncSession, project_id: str, url: str, endpoint: str | None = None
) -> StorageRow | None:
    """The storage of what is registered in place there. `endpoint` None: the newest, whatever its endpoint."""
    is_there = [StorageRow.kind == "bucket", StorageRow.url == url, StorageRow.writable.is_(False)]
    if endpoint is not None:
        is_there.append(StorageRow.endpoint == endpoint)
    statement = scoped_to(StorageRow, project_id).where(*is_there).order_by(StorageRow.created_at.desc())
    return await session.scalar(statement.limit(1))


async def following(session: AsyncSession, storage: StorageRow) -> list[StorageRow]:
    """Those that use its credentials."""
    statement = scoped_to(StorageRow, storage.project_id).where(StorageRow.credentials_of == storage.id)
    return list(await session.scalars(statement))


async def read_only(session: AsyncSession, project_id: str) -> set[str]:
    """Those of the project's storages in which nothing may be deleted, as rows name them."""
    rows = await session.scalars(scoped_to(StorageRow, project_id).where(StorageRow.writable.is_(False)))
    return {row.id.hex for row in rows}


async def held_by(session: AsyncSession, project_id: str, holder_id: uuid.UUID) -> StorageRow | None:
    """The storage of what this agent holds."""
    return await session.scalar(scoped_to(StorageRow, project_id).where(StorageRow.holder_id == holder_id))


async def holders(session: AsyncSession, storages: Collection[str]) -> dict[str, uuid.UUID]:
    """The agents that hold what is in these storages, by storage; those of other kinds are left out."""
    ids = [uuid.UUID(hex=storage) for storage in storages if storage != PLATFORM]
    statement = select(any_tenant(StorageRow)).where(StorageRow.id.in_(ids), StorageRow.holder_id.is_not(None))
    return {row.id.hex: row.holder_id for row in await session.scalars(statement) if row.holder_id is not None}


async def held_versions(session: AsyncSession, model_id: uuid.UUID, project_id: str) -> set[str]:
    """Numbers of the model's versions with files that an agent holds."""
    held = await session.scalars(scoped_to(StorageRow, project_id).where(StorageRow.holder_id.is_not(None)))
    if not (storages := [row.id.hex for row in held]):
        return set()
    has_file = FileRow.version_id == VersionRow.id, FileRow.storage.in_(storages)
    statement = select(VersionRow.version).where(VersionRow.model_id == model_id, exists().where(*has_file))
    return set(await session.scalars(statement))


async def models_with(session: AsyncSession, storage: StorageRow, digests: Collection[str]) -> list[uuid.UUID]:
    """Models with a version that has one of these files of the storage, by ID."""
    has_file = FileRow.project_id == storage.project_id, FileRow.storage == storage.id.hex, FileRow.sha256.in_(digests)
    versions = select(VersionRow.model_id).join(FileRow, FileRow.version_id == VersionRow.id).where(*has_file)
    return list(await session.scalars(versions.distinct().order_by(VersionRow.model_id)))


async def digests_in(session: AsyncSession, storage: StorageRow, version_id: uuid.UUID) -> dict[str, str]:
    """Digests of the version's files in the storage, by path."""
    of_version = FileRow.version_id == version_id, FileRow.storage == storage.id.hex
    statement = scoped_to(FileRow, storage.project_id).where(*of_version)
    return {row.path: row.sha256 for row in await session.scalars(statement)}


async def processing_in(session: AsyncSession, storage: StorageRow) -> list[str]:
    """IDs of versions with files in the storage that are being processed."""
    in_storage = FileRow.version_id == VersionRow.id, FileRow.storage == storage.id.hex
    statement = select(VersionRow.id).where(VersionRow.status == "processing", exists().where(*in_storage))
    return [str(version_id) for version_id in await session.scalars(statement)]


async def unused(session: AsyncSession, project_id: str) -> list[StorageRow]:
    """Storages to which no new pushes go and that nothing of the project refers to any more."""
    in_place = (StorageRow.kind == "bucket") & StorageRow.writable.is_(False)
    ended = scoped_to(StorageRow, project_id).where(StorageRow.replaced_at.is_not(None) | in_place)
    found = []
    for row in await session.scalars(ended):
        registered = select(RegisteredFileRow).where(RegisteredFileRow.storage == row.id.hex)
        uploads = scoped_to(UploadRow, project_id).where(UploadRow.storage == row.id.hex)
        unfinished = uploads.where(exists().where(UploadFileRow.upload_id == UploadRow.id))
        moving = scoped_to(MoveRow, project_id).where(MoveRow.storage == row.id.hex, MoveRow.state == MoveState.MOVING)
        others = (scoped_to(each, project_id).where(each.storage == row.id.hex) for each in _referring())
        if not any([await session.scalar(select(each.exists())) for each in (unfinished, moving, registered, *others)]):
            found.append(row)
    return found


def _referring() -> list[type[Any]]:
    """Every table that names the storage of a project's bytes, of whatever domain, but for those of uploads and moves,
    whose rows outlive that."""
    tables = (
        mapper.class_ for mapper in Table.registry.mappers if {"project_id", "storage"} <= set(mapper.columns.keys())
    )
    return [table for table in tables if table not in {UploadRow, MoveRow}]


class OwnFile(NamedTuple):
    """A file in a storage of the project's own."""

    file: FileRow
    blob: BlobRow
    version: str
    storage: StorageRow


async def files_only_of(session: AsyncSession, project_id: str, version_ids: Collection[uuid.UUID]) -> list[OwnFile]:
    """Files in own storages whose bytes no other version and no upload has, without those that are only read there."""
    rows = await session.scalars(scoped_to(StorageRow, project_id).where(StorageRow.writable))
    storages = {row.id.hex: row for row in rows}
    if not storages:
        return []
    of_blob = (
        (FileRow.project_id == BlobRow.project_id)
        & (FileRow.storage == BlobRow.storage)
        & (FileRow.sha256 == BlobRow.sha256)
    )
    other = aliased(FileRow)
    in_other = (
        exists()
        .where(other.project_id == BlobRow.project_id, other.storage == BlobRow.storage)
        .where(other.sha256 == BlobRow.sha256, other.version_id.not_in(version_ids))
    )
    statement = (
        select(FileRow, any_tenant(BlobRow), VersionRow.version)
        .join(BlobRow, of_blob)
        .join(VersionRow, VersionRow.id == FileRow.version_id)
        .where(BlobRow.project_id == project_id, FileRow.version_id.in_(version_ids), BlobRow.storage.in_(storages))
        .where(~in_other, ~in_session())
        .order_by(VersionRow.id, FileRow.path)
    )
    found = await session.execute(statement)
    return [OwnFile(file, blob, version, storages[blob.storage]) for file, blob, version in found]


async def with_credentials(session: AsyncSession) -> list[StorageRow]:
    """Of all projects."""
    return list(await session.scalars(select(any_tenant(StorageRow)).where(StorageRow.credentials.is_not(None))))


async def storage(session: AsyncSession, storage_id: uuid.UUID) -> StorageRow | None:
    """Of whatever project."""
    return await session.scalar(select(any_tenant(StorageRow)).where(StorageRow.id == storage_id))
