"""The bytes of a version become blobs of its project: each content once."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import Platform
from modelshare.server.jobs import Lease, lease_is_valid
from modelshare.server.registry import queries as models
from modelshare.server.registry.blobs import disposal, staging
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.processing.work import Work
from modelshare.server.registry.tables import (
    LEFT_OUT,
    BlobRow,
    FileRow,
    UploadFileRow,
    UploadRow,
    VersionRow,
)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file whose bytes the server has read itself."""

    path: str
    size: int
    sha256: str
    key: str | None
    """Where it lies; None where the project stored the same bytes before."""
    proven_at: int
    """When the server hashed them, Unix seconds."""


async def keep(
    platform: Platform,
    lease: Lease,
    work: Work,
    upload: UploadRow,
    files: Sequence[Arrived],
    left_out: str | None = None,
) -> None:
    """Lists the files as the version's; bytes that the project has already are let go of, and an archive is.

    `left_out`: a note for the version's owner.
    """
    now = platform.now()
    async with platform.database.write() as session:
        await blobs.lock_project(session, work.project_id)
        if not await models.lock_model(session, work.model_id):
            disposal.discard(session, work.project_id, [staging.prefix(work.project_id, upload.id)])
            await disposal.collect_later(session, work.project_id, now=now)
            return
        if not await lease_is_valid(session, lease):
            return
        if left_out is not None:
            version = await session.get_one(VersionRow, work.version_id)
            version.facts = version.facts | {LEFT_OUT: left_out}
        needless = await _keep_blobs(session, work, files, now)
        if upload.archive is not None:
            needless.append(upload.files[0].key)
        session.add_all(
            FileRow(
                version_id=work.version_id,
                path=file.path,
                project_id=work.project_id,
                sha256=file.sha256,
                size=file.size,
            )
            for file in files
        )
        await session.execute(delete(UploadFileRow).where(UploadFileRow.upload_id == upload.id))
        if needless:
            disposal.discard(session, work.project_id, needless)
            await disposal.collect_later(session, work.project_id, now=now)


async def _keep_blobs(session: AsyncSession, work: Work, files: Sequence[Arrived], now: int) -> list[str]:
    """Adds the blobs that are new, and answers the keys of those that are not."""
    known_blobs = await blobs.stored_blobs(session, work.project_id, (file.sha256 for file in files))
    needless = []
    for file in files:
        known = known_blobs.get(file.sha256)
        if known is None and file.key is not None:
            blob = BlobRow(
                project_id=work.project_id,
                sha256=file.sha256,
                size=file.size,
                key=file.key,
                created_at=now,
                proven_at=file.proven_at,
            )
            session.add(blob)
            known_blobs[file.sha256] = blob
        elif known is not None and file.key not in {None, known.key}:
            needless.append(str(file.key))
    await session.flush()
    return needless
