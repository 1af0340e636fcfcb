"""All queries for models and versions."""

import uuid
from collections.abc import Collection

from sqlalchemy import Select, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload, selectinload

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import any_tenant, capped_count, for_update, scoped_to
from modelshare.server.registry.tables import (
    BlobRow,
    DeletedVersionRow,
    FileRow,
    ModelRow,
    UploadFileRow,
    UploadRow,
    VersionRow,
    key_of,
)
from modelshare.wire.uploads import UploadState


def _whole(statement: Select[ModelRow]) -> Select[ModelRow]:
    return statement.options(joinedload(ModelRow.project), selectinload(ModelRow.versions))


async def model(session: AsyncSession, project_id: str, model_id: uuid.UUID, *, lock: bool = False) -> ModelRow | None:
    """A model of this project, with its project and versions loaded."""
    statement = _whole(scoped_to(ModelRow, project_id).where(ModelRow.id == model_id))
    return await session.scalar(for_update(statement, of=ModelRow) if lock else statement)


async def id_named(session: AsyncSession, project_id: str, name: str) -> uuid.UUID | None:
    """The ID of the model of this name, ignoring case. Prefers the exact name: older models may differ only in case."""
    named = or_(ModelRow.name == name, ModelRow.name_key == key_of(name))
    statement = scoped_to(ModelRow, project_id).where(named).with_only_columns(ModelRow.id)
    return await session.scalar(statement.order_by((ModelRow.name == name).desc()).limit(1))


async def other_named(session: AsyncSession, project_id: str, name: str, but: uuid.UUID | None) -> str | None:
    """The name of another model of the project (not `but`) that is equal to `name`, ignoring case."""
    statement = scoped_to(ModelRow, project_id).where(func.lower(ModelRow.name) == key_of(name))
    if but is not None:
        statement = statement.where(ModelRow.id != but)
    return await session.scalar(statement.with_only_columns(ModelRow.name).limit(1))


async def hand_on_name(session: AsyncSession, project_id: str, name_key: str) -> None:
    """Gives a name that has become free to the oldest model that is called so and went without: `ModelRow.name_key`."""
    heirs = select(any_tenant(ModelRow).id).where(
        ModelRow.project_id == project_id, ModelRow.name_key.is_(None), func.lower(ModelRow.name) == name_key
    )
    oldest = heirs.order_by(ModelRow.created_at, ModelRow.id).limit(1).scalar_subquery()
    await session.execute(update(any_tenant(ModelRow)).where(ModelRow.id == oldest).values(name_key=name_key))


async def deleted_versions(session: AsyncSession, model_id: uuid.UUID) -> set[str]:
    """Version numbers that cannot be used again."""
    return set(await session.scalars(select(DeletedVersionRow.version).where(DeletedVersionRow.model_id == model_id)))


async def served_names(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """`owner/name` of models of any project."""
    statement = select(any_tenant(ModelRow).id, ProjectRow.slug, ModelRow.name).join(ModelRow.project)
    rows = await session.execute(statement.where(ModelRow.id.in_(model_ids)))
    return {model_id: f"{slug}/{name}" for model_id, slug, name in rows}


async def lock_model(session: AsyncSession, model_id: uuid.UUID) -> bool:
    """Locks a model of any project for the transaction; False if it does not exist.

    Every change of a model's sharing or endpoints takes this lock first.
    """
    return await session.scalar(for_update(select(any_tenant(ModelRow)).where(ModelRow.id == model_id))) is not None


async def any_model(session: AsyncSession, model_id: uuid.UUID, *, lock: bool = False) -> ModelRow | None:
    """A model of any project. `sharing.rules` decide who may see it."""
    statement = _whole(select(any_tenant(ModelRow)).where(ModelRow.id == model_id)).execution_options(
        populate_existing=True
    )
    return await session.scalar(for_update(statement, of=ModelRow) if lock else statement)


async def models(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[ModelRow]:
    """Newest first."""
    statement = _whole(scoped_to(ModelRow, project_id)).order_by(ModelRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(ModelRow.id < after) if after else statement))


async def names(session: AsyncSession, project_id: str, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    statement = scoped_to(ModelRow, project_id).where(ModelRow.id.in_(model_ids))
    rows = await session.execute(statement.with_only_columns(ModelRow.id, ModelRow.name))
    return {row.id: row.name for row in rows}


async def count(session: AsyncSession, limit: int) -> int:
    return await session.scalar(capped_count(select(any_tenant(ModelRow).id), limit)) or 0


async def version(session: AsyncSession, version_id: uuid.UUID) -> VersionRow | None:
    return await session.get(VersionRow, version_id)


async def version_with_model(session: AsyncSession, version_id: uuid.UUID) -> VersionRow | None:
    return await session.get(VersionRow, version_id, options=[joinedload(VersionRow.model)])


async def staged_upload(session: AsyncSession, version_id: uuid.UUID) -> UploadRow | None:
    """The version's completed session with its files, if their bytes are not blobs yet."""
    has_files = exists().where(UploadFileRow.upload_id == UploadRow.id)
    of_version = UploadRow.version_id == version_id, UploadRow.state == UploadState.COMPLETED
    statement = select(any_tenant(UploadRow)).where(*of_version, has_files).options(selectinload(UploadRow.files))
    return await session.scalar(statement)


async def files_with_blobs(session: AsyncSession, version_id: uuid.UUID) -> list[tuple[FileRow, BlobRow]]:
    """A version's files, ordered by path, each with its blob."""
    same = (
        (BlobRow.project_id == FileRow.project_id)
        & (BlobRow.storage == FileRow.storage)
        & (BlobRow.sha256 == FileRow.sha256)
    )
    statement = (
        select(FileRow, any_tenant(BlobRow))
        .join(BlobRow, same)
        .where(FileRow.version_id == version_id)
        .order_by(FileRow.path)
    )
    return [(row, blob) for row, blob in await session.execute(statement)]


async def delete_version(session: AsyncSession, version_id: uuid.UUID | None) -> None:
    await session.execute(delete(VersionRow).where(VersionRow.id == version_id))


async def delete_model(session: AsyncSession, model_id: uuid.UUID) -> None:
    await session.execute(delete(any_tenant(ModelRow)).where(ModelRow.id == model_id))
