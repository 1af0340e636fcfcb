"""Changes to a restored database: what was in progress when the backup was made, and bytes that it does not have."""

from collections.abc import Collection

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import any_tenant
from modelshare.server.registry.tables import DAMAGED, BlobRow, DeletionHoldRow, StagedFileRow, UploadRow
from modelshare.server.storage.stores import PLATFORM
from modelshare.wire.uploads import UploadState


async def end_holds(session: AsyncSession) -> None:
    """Ends the hold of the backup itself, which its snapshot has."""
    await session.execute(delete(DeletionHoldRow))


async def expire_uploads(session: AsyncSession) -> None:
    """Uploads in progress to the platform's disk expire at once: a backup does not have their bytes."""
    for table in (any_tenant(UploadRow), any_tenant(StagedFileRow)):
        statement = update(table).where(table.storage == PLATFORM).values(expires_at=0)
        await session.execute(statement.where(table.state == UploadState.OPEN) if table is UploadRow else statement)


async def mark_damaged(session: AsyncSession, keys: Collection[str]) -> None:
    """A push of the same content sends these bytes again."""
    for key in keys:
        this = BlobRow.storage == PLATFORM, BlobRow.key == key
        await session.execute(update(any_tenant(BlobRow)).where(*this).values(proven_at=DAMAGED))
