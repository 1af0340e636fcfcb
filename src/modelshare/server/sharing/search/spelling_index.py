"""Learns the words of public models for spelling corrections, in the background, so that sharing is not delayed.

Words are never removed. An obsolete word does no harm: `service` checks that a correction has matches for the viewer.
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
"""Entries per transaction."""


async def learn(database: Database) -> None:
    """Learns new entries. Safe to repeat. Skips locked entries, which are learned next time."""
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
            if at_once > 1:  # find the one that cannot be learned
                at_once = 1
                continue
            log.warning("the search terms of a model cannot be indexed", entry=taken[0], exc_info=error)
        after = taken[-1]


async def _learn_some(session: AsyncSession, after: int, at_once: int, taken: list[int]) -> bool:
    """Returns whether there may be more. Adds the IDs of the entries to `taken`."""
    entries = await queries.unlearned(session, after, at_once)
    taken.extend(entry.id for entry in entries)
    if not entries:
        return False
    words = {word for entry in entries if is_public(entry.terms) for word in words_in(entry.terms)}
    # In a fixed order, so that two processes that learn the same words cannot deadlock.
    rows = [
        {"form": form, "word": word}
        for form, word in sorted((form, word) for word in filter(can_be_corrected, words) for form in forms(word))
    ]
    if rows:
        await queries.add_words(session, rows)
    await queries.mark_learned(session, taken)
    return len(entries) == at_once
