"""All queries for upload sessions."""

import uuid
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Select, bindparam, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from modelshare.server.db import any_tenant, capped_count, for_update, scoped_to
from modelshare.server.registry.tables import ModelRow, UploadFileRow, UploadRow, VersionRow, key_of
from modelshare.wire.uploads import UploadState


async def upload(session: AsyncSession, project_id: str, upload_id: uuid.UUID) -> UploadRow | None:
    """A session of this project with its files."""
    return await session.scalar(_with_files(scoped_to(UploadRow, project_id).where(UploadRow.id == upload_id)))


async def lock_upload(session: AsyncSession, upload_id: uuid.UUID) -> UploadRow:
    return (await session.scalars(for_update(select(any_tenant(UploadRow)).where(UploadRow.id == upload_id)))).one()


async def uploads(
    session: AsyncSession,
    project_id: str,
    limit: int,
    after: uuid.UUID | None = None,
    state: UploadState | None = None,
    name: str | None = None,
) -> list[UploadRow]:
    """Newest first."""
    statement = _with_files(scoped_to(UploadRow, project_id)).order_by(UploadRow.id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(UploadRow.id < after)
    if state is not None:
        statement = statement.where(UploadRow.state == state)
    if name is not None:
        statement = statement.where(func.lower(UploadRow.model_name) == key_of(name))
    return list(await session.scalars(statement))


async def open_uploads_of(session: AsyncSession, model_id: uuid.UUID) -> list[UploadRow]:
    """Newest first."""
    statement = select(any_tenant(UploadRow)).where(UploadRow.model_id == model_id, UploadRow.state == UploadState.OPEN)
    return list(await session.scalars(_with_files(statement).order_by(UploadRow.id.desc())))


async def open_storages(session: AsyncSession, project_id: str) -> set[str]:
    """Where the project's open sessions gather their bytes."""
    statement = scoped_to(UploadRow, project_id).where(UploadRow.state == UploadState.OPEN)
    return set(await session.scalars(statement.with_only_columns(UploadRow.storage).distinct()))


async def count_open(session: AsyncSession, project_id: str, limit: int) -> int:
    """Counts up to `limit`."""
    statement = scoped_to(UploadRow, project_id).where(UploadRow.state == UploadState.OPEN)
    return await session.scalar(capped_count(statement.with_only_columns(UploadRow.id), limit)) or 0


async def expired(session: AsyncSession, now: int, limit: int, *, after: uuid.UUID) -> list[UploadRow]:
    """Open sessions of all projects that are past their expiry, by ID."""
    statement = select(any_tenant(UploadRow)).where(UploadRow.state == UploadState.OPEN, UploadRow.expires_at <= now)
    return list(await session.scalars(statement.where(UploadRow.id > after).order_by(UploadRow.id).limit(limit)))


async def upload_with(
    session: AsyncSession, project_id: str, upload_id: uuid.UUID, numbers: Collection[int]
) -> tuple[UploadRow, Sequence[UploadFileRow]] | None:
    """A session of this project and its files with these numbers."""
    row = await session.scalar(scoped_to(UploadRow, project_id).where(UploadRow.id == upload_id))
    if row is None:
        return None
    this = UploadFileRow.upload_id == upload_id, UploadFileRow.n.in_(numbers)
    return row, (await session.scalars(select(UploadFileRow).where(*this))).all()


async def begin_files(session: AsyncSession, upload_id: uuid.UUID, ids: Mapping[int, str]) -> dict[int, str]:
    """Stores the upload IDs of files that have none yet. Returns the IDs that the files have then, by number."""
    unclaimed = UploadFileRow.multipart_id == "", UploadFileRow.reused.is_(False)
    unopened = update(UploadFileRow).where(
        UploadFileRow.upload_id == upload_id, UploadFileRow.n == bindparam("file"), *unclaimed
    )
    connection = await session.connection()
    rows = [{"file": n, "name": name} for n, name in ids.items()]
    await connection.execute(unopened.values(multipart_id=bindparam("name")), rows)
    found = select(UploadFileRow.n, UploadFileRow.multipart_id).where(
        UploadFileRow.upload_id == upload_id, UploadFileRow.n.in_(ids)
    )
    return {row.n: row.multipart_id for row in await session.execute(found)}


async def claim(session: AsyncSession, upload_id: uuid.UUID, digests: Mapping[int, str]) -> None:
    """Stores the expected SHA-256 of files of the session, by number."""
    if digests:
        this = update(UploadFileRow).where(
            UploadFileRow.upload_id == upload_id, UploadFileRow.n == bindparam("file"), UploadFileRow.sha256.is_(None)
        )
        rows = [{"file": n, "sha256": sha256} for n, sha256 in digests.items()]
        connection = await session.connection()
        await connection.execute(this.values(sha256=bindparam("sha256")), rows)


async def lock_model_named(session: AsyncSession, project_id: str, name: str) -> ModelRow | None:
    """A model of this project with its versions, locked."""
    statement = for_update(scoped_to(ModelRow, project_id).where(ModelRow.name == name))
    return await session.scalar(statement.options(selectinload(ModelRow.versions)))


async def has_versions(session: AsyncSession, model_id: uuid.UUID) -> bool:
    return bool(await session.scalar(select(exists().where(VersionRow.model_id == model_id))))


def _with_files(statement: Select[UploadRow]) -> Select[UploadRow]:
    return statement.options(selectinload(UploadRow.files))
