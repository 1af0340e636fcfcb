"""Finds a page of the catalog, and counts, in a time that hardly depends on how many models there are.

Few models fit: all of them are looked at, ranked and counted. Many fit: then the next one in any order is not far, so
the order is walked, for so many steps at most, and the counts are those of the models shared last.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import decode_cursor, encode_cursor
from modelshare.server.sharing.search import facets, queries
from modelshare.server.sharing.search.facets import Facets
from modelshare.server.sharing.search.queries import SORTED_BY, AnyRow, Entry, Place
from modelshare.server.sharing.search.ranking import Ranking
from modelshare.server.sharing.search.terms import Condition, Filters, Sort, Viewer, conditions, seen_by

FEW = 2_000
"""So many models are looked at."""
STEPS = 20_000
"""Of a walk, for one page."""
_WALKED = -1
"""Stands for the rank in a walk's cursor."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which page of what."""

    filters: Filters = field(default_factory=Filters)
    sort: Sort = Sort.RELEVANCE
    limit: int = 50
    after: str | None = None
    facets: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A page. One that is not full may have a next one all the same: there its walk ended."""

    entries: Sequence[Entry] = ()
    next_cursor: str | None = None
    total: int = 0
    total_is_exact: bool = True
    """If not, there are at least so many models, and of each facet's values at least so many."""
    facets: Facets | None = None


class _Cursor(NamedTuple):
    """The last entry of a page."""

    rank: int
    value: Any
    id: int


async def find(session: AsyncSession, viewer: Viewer, wish: Wish) -> Found:
    """What the filters let through of what the viewer may see."""
    after = _read(wish)
    wanted = conditions(viewer, wish.filters)
    if wanted is None:
        return Found(facets=facets.count([]) if wish.facets else None)
    if after is not None and after.rank == _WALKED and not wish.facets:
        many = await queries.count(session, wanted, FEW + 1)
        return await _walk(session, wanted, wish, after, Found(total=min(many, FEW), total_is_exact=many <= FEW))
    # A listing that began with few goes on so while others come.
    bound = FEW if after is None or after.rank == _WALKED else 2 * FEW
    rows = await queries.matches(session, wanted, bound + 1)
    fitting = [row for row in rows[:bound] if _fits(row, wish.filters)]
    found = Found(
        total=len(fitting),
        total_is_exact=len(rows) <= bound,
        facets=facets.count(fitting) if wish.facets else None,
    )
    if len(rows) > bound or (after is not None and after.rank == _WALKED):
        return await _walk(session, wanted, wish, after, found)
    return await _page_of(session, fitting, wish, after, found)


async def get(session: AsyncSession, viewer: Viewer, model_id: uuid.UUID) -> Entry | None:
    """One model of the catalog with all its versions, if the viewer may see it."""
    return await queries.entry(session, seen_by(viewer), model_id)


async def _page_of(
    session: AsyncSession, rows: Sequence[AnyRow], wish: Wish, after: _Cursor | None, found: Found
) -> Found:
    """All that fit are here: ranks them."""
    column, falls = SORTED_BY[wish.sort]
    ranking = Ranking(wish.filters.q if wish.sort is Sort.RELEVANCE else None)
    places = [_Cursor(ranking.rank(row.name), getattr(row, column.key), row.id) for row in rows]
    places.sort(reverse=falls)
    if after is not None:
        places = [place for place in places if (place < after if falls else place > after)]
    page = places[: wish.limit]
    cursor = encode_cursor(*page[-1]) if len(places) > wish.limit else None
    return replace(found, entries=await queries.entries(session, [place.id for place in page]), next_cursor=cursor)


async def _walk(
    session: AsyncSession, wanted: Sequence[Condition], wish: Wish, after: _Cursor | None, found: Found
) -> Found:
    """More fit than are looked at: goes through the order until the page is full or it was far enough."""
    start = Place(after.value, after.id) if after else None
    walk = await queries.walk(session, wanted, wish.filters, wish.sort, start, steps=STEPS, most=wish.limit + 1)
    page = walk.found[: wish.limit]
    ended_at = page[-1] if len(walk.found) > wish.limit else walk.came_to
    cursor = encode_cursor(_WALKED, *ended_at) if ended_at else None
    return replace(found, entries=await queries.entries(session, [place.id for place in page]), next_cursor=cursor)


def _read(wish: Wish) -> _Cursor | None:
    if not wish.after:
        return None
    kind = str if wish.sort is Sort.NAME else int
    return _Cursor(*decode_cursor(wish.after, int, kind, int))


def _fits(row: AnyRow, filters: Filters) -> bool:
    """Exactly, where the terms say in which buckets only."""
    return (filters.parameters.is_everything or row.parameters in filters.parameters) and (
        filters.context.is_everything or row.context_length in filters.context
    )
