"""Finds a page of the catalog, and counts, in a time that hardly depends on how many models there are.

Few models fit: all of them are looked at, ranked and counted. More fit: the counts are those of the models shared last.
Then the next one in any order is often not far, and the order is walked; if it is far, the database sorts where some
thousands fit, and goes on walking, for so many steps at most, where more do.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import decode_cursor, encode_cursor
from modelshare.server.sharing.search import facets, queries
from modelshare.server.sharing.search.facets import Facets
from modelshare.server.sharing.search.queries import LOOKED_AT, SORTED_BY, AnyRow, Entry, Place, Walk
from modelshare.server.sharing.search.ranking import Ranking
from modelshare.server.sharing.search.spelling import can_be_corrected, forms, nearest
from modelshare.server.sharing.search.terms import Condition, Filters, Sort, Viewer, conditions, seen_by
from modelshare.server.sharing.search.words import asked

FEW = 1_000
"""So many models are looked at."""
MANY = 8_000
"""So many are sorted by the database."""
STEPS = 10_000
"""Of a walk, for one page."""
FIRST_STEPS = 1_000
"""Of a walk that is tried before anything else: enough where every twentieth model fits."""
_MOST_TRIED = 3
"""Known words for one that finds nothing."""
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
    corrected: str | None = None
    """The words that were searched instead, where nothing fits those that were asked for."""


class _Cursor(NamedTuple):
    """The last entry of a page."""

    rank: int
    value: Any
    id: int

    @property
    def walked(self) -> bool:
        return self.rank == _WALKED


async def find(session: AsyncSession, viewer: Viewer, wish: Wish) -> Found:
    """What the filters let through of what the viewer may see; if nothing, what fits with its words corrected."""
    found = await _find(session, viewer, wish)
    corrected = await _corrected(session, viewer, wish.filters.q or "") if found.total == 0 else None
    if corrected is None:
        return found
    instead = await _find(session, viewer, replace(wish, filters=replace(wish.filters, q=corrected)))
    return replace(instead, corrected=corrected) if instead.total else found


async def _corrected(session: AsyncSession, viewer: Viewer, query: str) -> str | None:
    """The query with each word that the viewer finds nothing by replaced by the nearest one that finds something."""
    words = asked(query)
    for at, word in enumerate(words):
        if not can_be_corrected(word) or await _leads_somewhere(session, viewer, word):
            continue
        known = await queries.words_by_form(session, forms(word))
        for meant in nearest(word, known, _MOST_TRIED):
            if await _leads_somewhere(session, viewer, meant):
                words[at] = meant
                break
    return " ".join(words) if words != asked(query) else None


async def _leads_somewhere(session: AsyncSession, viewer: Viewer, word: str) -> bool:
    wanted = conditions(viewer, Filters(q=word))
    return wanted is not None and await queries.count(session, wanted, 1) > 0


async def _find(session: AsyncSession, viewer: Viewer, wish: Wish) -> Found:
    after = _read(wish)
    wanted = conditions(viewer, wish.filters)
    if wanted is None:
        return Found(facets=facets.count(_columns([])) if wish.facets else None)
    # A listing that began with few goes on so while others come.
    bound = 2 * FEW if after is not None and not after.walked else FEW
    if after is not None and after.walked and not wish.facets:
        total = await queries.count(session, wanted, FEW + 1)
        page, cursor = await _in_order(session, wanted, wish, after)
        shown = await queries.entries(session, page)
        return Found(shown, cursor, min(total, FEW), total_is_exact=total <= FEW)
    rows = await queries.matches(session, wanted, bound + 1)
    fitting = _fitting(rows[:bound], wish.filters)
    columns = _columns(fitting)
    found = Found(
        total=len(fitting),
        total_is_exact=len(rows) <= bound,
        facets=facets.count(columns) if wish.facets else None,
    )
    if found.total_is_exact and (after is None or not after.walked):
        page, cursor = _ranked(columns, wish, after)
    else:
        page, cursor = await _in_order(session, wanted, wish, after)
    return replace(found, entries=await queries.entries(session, page), next_cursor=cursor)


async def get(session: AsyncSession, viewer: Viewer, model_id: uuid.UUID) -> Entry | None:
    """One model of the catalog with all its versions, if the viewer may see it."""
    return await queries.entry(session, seen_by(viewer), model_id)


def _ranked(columns: Mapping[str, Sequence[Any]], wish: Wish, after: _Cursor | None) -> tuple[list[int], str | None]:
    """All that fit are here: the ids of a page of them, and the next cursor."""
    key, falls = SORTED_BY[wish.sort]
    ranking = Ranking(wish.filters.q if wish.sort is Sort.RELEVANCE else None)
    places = sorted(zip(map(ranking.rank, columns["name"]), columns[key], columns["id"], strict=True), reverse=falls)
    if after is not None:
        places = [place for place in places if (place < after if falls else place > after)]
    page = places[: wish.limit]
    cursor = encode_cursor(*page[-1]) if len(places) > wish.limit else None
    return [place[-1] for place in page], cursor


async def _in_order(
    session: AsyncSession, wanted: Sequence[Condition], wish: Wish, after: _Cursor | None
) -> tuple[list[int], str | None]:
    """More fit than are looked at: the ids of a page in the order that was asked for, and the next cursor."""
    start = Place(after.value, after.id) if after else None
    most = wish.limit + 1

    async def walk(steps: int) -> Walk:
        return await queries.walk(session, wanted, wish.filters, wish.sort, start, steps=steps, most=most)

    places, came_to = await walk(FIRST_STEPS)
    if len(places) < most and came_to is not None:
        if await queries.count(session, wanted, MANY + 1) <= MANY:
            places = await queries.first(session, wanted, wish.filters, wish.sort, start, most)
            came_to = None
        else:
            places, came_to = await walk(STEPS)
    if len(places) == most:
        came_to = places[-2]
    cursor = encode_cursor(_WALKED, *came_to) if came_to else None
    return [place.id for place in places[: wish.limit]], cursor


def _read(wish: Wish) -> _Cursor | None:
    if not wish.after:
        return None
    kind = str if wish.sort is Sort.NAME else int
    return _Cursor(*decode_cursor(wish.after, int, kind, int))


def _fitting(rows: Sequence[AnyRow], filters: Filters) -> Sequence[AnyRow]:
    """Exactly, where the terms tell buckets only."""
    for column, wanted in (("parameters", filters.parameters), ("context_length", filters.context)):
        if not wanted.is_everything:
            rows = [row for row in rows if getattr(row, column) in wanted]
    return rows


def _columns(rows: Sequence[AnyRow]) -> Mapping[str, Sequence[Any]]:
    return dict(zip(LOOKED_AT, zip(*rows, strict=True) if rows else [()] * len(LOOKED_AT), strict=True))
