"""Learns the words of public models, for corrections: in the background, for sharing need not wait for it.

Words are never unlearned. One that leads nowhere any more corrects nothing: `service` looks whether the viewer finds
something by it.
"""

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database, unclaimed, upsert
from modelshare.server.sharing.search.spelling import can_be_corrected, forms
from modelshare.server.sharing.search.tables import CatalogEntryRow, CatalogWordRow
from modelshare.server.sharing.search.terms import is_public, words_in

_AT_ONCE = 200
"""Entries of one transaction."""


async def learn(database: Database) -> None:
    """Learns what is new, and again does no harm. It waits for nobody: what is being changed is learned next time."""
    while True:
        async with database.write() as session:
            if not await _learn_some(session):
                return


async def _learn_some(session: AsyncSession) -> bool:
    """Whether there may be more."""
    statement = unclaimed(select(CatalogEntryRow).where(CatalogEntryRow.is_learned.is_(False)).limit(_AT_ONCE))
    entries = (await session.scalars(statement.order_by(CatalogEntryRow.id))).all()
    if not entries:
        return False
    words = {word for entry in entries if is_public(entry.terms) for word in words_in(entry.terms)}
    # In one order: two processes that learn the same words wait for each other, not both at once.
    rows = [
        {"form": form, "word": word}
        for form, word in sorted((form, word) for word in filter(can_be_corrected, words) for form in forms(word))
    ]
    if rows:
        await session.execute(upsert(session, CatalogWordRow).on_conflict_do_nothing(), rows)
    ids = [entry.id for entry in entries]
    await session.execute(update(CatalogEntryRow).where(CatalogEntryRow.id.in_(ids)).values(is_learned=True))
    return len(entries) == _AT_ONCE
