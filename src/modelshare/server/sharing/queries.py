"""Every select on shares; the catalog's own are in `catalog.py`."""

import uuid
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.sharing.tables import ShareRow


async def share(session: AsyncSession, model_id: uuid.UUID) -> ShareRow | None:
    """Ask under the model's lock when it is to be changed."""
    return await session.get(ShareRow, model_id, populate_existing=True)


async def shares(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, ShareRow]:
    rows = await session.scalars(select(ShareRow).where(ShareRow.model_id.in_(model_ids)))
    return {row.model_id: row for row in rows}
