"""Learns the words of public models, for corrections: in the background, for sharing need not wait for it.

Words are never unlearned. One that leads nowhere any more corrects nothing: `service` looks whether the viewer finds
something by it.
"""

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import Database
from modelshare.server.outages import outage_of
from modelshare.server.sharing.search import queries
from modelshare.server.sharing.search.spelling import can_be_corrected, forms
from modelshare.server.sharing.search.terms import is_public, words_in

log = structlog.get_logger()

_AT_ONCE = 200
"""Entries of one transaction."""


async def learn(database: Database) -> None:
    """Learns what is new, and again does no harm. It waits for nobody: what is being changed is learned next time."""
    after, at_once = 0, _AT_ONCE
    while True:
        taken: list[int] = []
        try:
            async with database.write() as session:
                if not await _learn_some(session, after, at_once, taken):
                    return
        except Exception as error:
            if outage_of(error) is not None or not taken:
                raise
            if at_once > 1:  # one of them cannot be learned: which?
                at_once = 1
                continue
            log.warning("the search terms of a model cannot be indexed", entry=taken[0], exc_info=error)
        after = taken[-1]


async def _learn_some(session: AsyncSession, after: int, at_once: int, taken: list[int]) -> bool:
    """Whether there may be more. `taken` hears which entries these are."""
    entries = await queries.unlearned(session, after, at_once)
    taken.extend(entry.id for entry in entries)
    if not entries:
        return False
    words = {word for entry in entries if is_public(entry.terms) for word in words_in(entry.terms)}
    # In one order: two processes that learn the same words wait for each other, not both at once.
    rows = [
        {"form": form, "word": word}
        for form, word in sorted((form, word) for word in filter(can_be_corrected, words) for form in forms(word))
    ]
    if rows:
        await queries.add_words(session, rows)
    await queries.mark_learned(session, taken)
    return len(entries) == at_once
