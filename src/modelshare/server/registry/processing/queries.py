"""Every select on what a job works on."""

import uuid

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload, selectinload

from modelshare.server.db import any_tenant
from modelshare.server.registry.tables import UploadFileRow, UploadRow, VersionRow
from modelshare.wire.uploads import UploadState


async def version_with_model(session: AsyncSession, version_id: uuid.UUID) -> VersionRow | None:
    return await session.get(VersionRow, version_id, options=[joinedload(VersionRow.model)])


async def staged_upload(session: AsyncSession, version_id: uuid.UUID) -> UploadRow | None:
    """The completed session of the version whose bytes are not blobs yet, with its files."""
    holds_files = exists().where(UploadFileRow.upload_id == UploadRow.id)
    of_version = UploadRow.version_id == version_id, UploadRow.state == UploadState.COMPLETED
    statement = select(any_tenant(UploadRow)).where(*of_version, holds_files).options(selectinload(UploadRow.files))
    return await session.scalar(statement)
