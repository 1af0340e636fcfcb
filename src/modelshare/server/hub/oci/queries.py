"""All SELECT statements on OCI artifacts."""

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import for_key_share, upsert
from modelshare.server.hub.oci.tables import OciArtifactRow
from modelshare.server.registry.tables import FileRow, VersionRow
from modelshare.wire.models import ModelStatus


async def artifact(session: AsyncSession, version_id: uuid.UUID, file: str) -> OciArtifactRow | None:
    return await session.get(OciArtifactRow, (version_id, file))


async def by_digest(
    session: AsyncSession, version_ids: Collection[uuid.UUID], file: str, digest: str
) -> OciArtifactRow | None:
    """The artifact of one of these versions whose manifest has this digest."""
    these = OciArtifactRow.version_id.in_(version_ids), OciArtifactRow.file == file
    return await session.scalar(select(OciArtifactRow).where(*these, OciArtifactRow.digest == digest))


async def config(session: AsyncSession, version_ids: Collection[uuid.UUID], file: str, digest: str) -> bytes | None:
    """The config with this digest of an artifact of one of these versions."""
    these = OciArtifactRow.version_id.in_(version_ids), OciArtifactRow.file == file
    return await session.scalar(select(OciArtifactRow.config).where(*these, OciArtifactRow.config_digest == digest))


async def version_naming(
    session: AsyncSession, version_ids: Collection[uuid.UUID], file: str, sha256: str
) -> uuid.UUID | None:
    """The newest of these versions whose manifest contains a file with this SHA-256."""
    statement = (
        select(OciArtifactRow.version_id)
        .join(FileRow, FileRow.version_id == OciArtifactRow.version_id)
        .where(OciArtifactRow.version_id.in_(version_ids), OciArtifactRow.file == file)
        .where(OciArtifactRow.manifest.is_not(None), FileRow.sha256 == sha256, FileRow.size > 0)
    )
    return await session.scalar(statement.order_by(OciArtifactRow.version_id.desc()).limit(1))


async def versions_to_render(session: AsyncSession, model_id: uuid.UUID) -> Sequence[VersionRow]:
    """The model's ready versions that have no artifact yet."""
    is_whole = (OciArtifactRow.version_id == VersionRow.id) & (OciArtifactRow.file == "")
    statement = select(VersionRow).outerjoin(OciArtifactRow, is_whole).where(OciArtifactRow.version_id.is_(None))
    ready = VersionRow.model_id == model_id, VersionRow.status == ModelStatus.READY
    return (await session.scalars(statement.where(*ready).order_by(VersionRow.id))).all()


async def kept_version(session: AsyncSession, version_id: uuid.UUID) -> VersionRow | None:
    """The version, locked against deletion until the transaction ends."""
    return await session.scalar(for_key_share(select(VersionRow).where(VersionRow.id == version_id)))


async def add(session: AsyncSession, **values: object) -> None:
    """Keeps an artifact that another process has added first."""
    await session.execute(upsert(session, OciArtifactRow).values(**values).on_conflict_do_nothing())
