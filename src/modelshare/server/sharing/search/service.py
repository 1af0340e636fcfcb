"""Finds a page of the catalog, with counts, in a time that hardly depends on the number of models.

Few matches are all loaded, ranked and counted. With more, some of them are counted, and `ordering` finds the page.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.sharing.search import facets, ordering, queries
from modelshare.server.sharing.search.cards import CatalogCard
from modelshare.server.sharing.search.facets import Facets
from modelshare.server.sharing.search.ordering import FEW, SearchQuery
from modelshare.server.sharing.search.queries import LOOKED_AT, AnyRow, Entry
from modelshare.server.sharing.search.spelling import can_be_corrected, forms, nearest
from modelshare.server.sharing.search.terms import Filters, Viewer, conditions, seen_by
from modelshare.server.sharing.search.tokenizer import asked

_MAX_TRIED = 3
"""Corrections tried for a word without matches."""


@dataclass(frozen=True, slots=True)
class Found:
    """A page. A page that is not full may still have a next one, if its scan reached the limit."""

    cards: Sequence[CatalogCard] = ()
    next_cursor: str | None = None
    total: int = 0
    total_is_exact: bool = True
    """If False, the total and the counts of facets are lower bounds."""
    facets: Facets | None = None
    corrected: str | None = None
    """The corrected query, if the original one had no matches."""


async def find(session: AsyncSession, viewer: Viewer, spec: SearchQuery) -> Found:
    """Finds the models that match and that the viewer may see; if there are none, with corrected spelling."""
    found = await _find(session, viewer, spec)
    corrected = await _corrected(session, viewer, spec.filters.q or "") if found.total == 0 else None
    if corrected is None:
        return found
    instead = await _find(session, viewer, replace(spec, filters=replace(spec.filters, q=corrected)))
    return replace(instead, corrected=corrected) if instead.total else found


async def _corrected(session: AsyncSession, viewer: Viewer, query: str) -> str | None:
    """The query, with each word that has no matches for the viewer replaced by the nearest one that has."""
    words = asked(query)
    for at, word in enumerate(words):
        if not can_be_corrected(word) or await _has_matches(session, viewer, word):
            continue
        known = await queries.words_by_form(session, forms(word))
        for meant in nearest(word, known, _MAX_TRIED):
            if await _has_matches(session, viewer, meant):
                words[at] = meant
                break
    return " ".join(words) if words != asked(query) else None


async def _has_matches(session: AsyncSession, viewer: Viewer, word: str) -> bool:
    wanted = conditions(viewer, Filters(q=word))
    return wanted is not None and await queries.count(session, wanted, 1) > 0


async def _find(session: AsyncSession, viewer: Viewer, spec: SearchQuery) -> Found:
    after = ordering.read(spec)
    wanted = conditions(viewer, spec.filters)
    if wanted is None:
        return Found(facets=facets.count(_columns([])) if spec.facets else None)
    # A listing that started with few matches continues in the same way if models are added meanwhile.
    bound = 2 * FEW if after is not None and not after.beyond_few else FEW
    if after is not None and after.beyond_few and not spec.facets:
        total = await queries.count(session, wanted, FEW + 1)
        page, cursor = await ordering.page(session, wanted, spec, after, ())
        shown = await queries.cards(session, page)
        return Found(shown, cursor, min(total, FEW), total_is_exact=total <= FEW)
    rows = await queries.matches(session, wanted, bound + 1)
    fitting = _fitting(rows[:bound], spec.filters)
    columns = _columns(fitting)
    found = Found(
        total=len(fitting),
        total_is_exact=len(rows) <= bound,
        facets=facets.count(columns) if spec.facets else None,
    )
    if found.total_is_exact and (after is None or not after.beyond_few):
        page, cursor = ordering.ranked(columns, spec, after)
    else:
        page, cursor = await ordering.page(session, wanted, spec, after, columns["id"])
    return replace(found, cards=await queries.cards(session, page), next_cursor=cursor)


async def get(session: AsyncSession, viewer: Viewer, model_id: uuid.UUID) -> Entry | None:
    """One model of the catalog with all its versions, if the viewer may see it."""
    return await queries.entry(session, seen_by(viewer), model_id)


def _fitting(rows: Sequence[AnyRow], filters: Filters) -> Sequence[AnyRow]:
    """Applies exact ranges, since terms contain only buckets."""
    for column, wanted in (("parameters", filters.parameters), ("context_length", filters.context)):
        if not wanted.is_everything:
            rows = [row for row in rows if getattr(row, column) in wanted]
    return rows


def _columns(rows: Sequence[AnyRow]) -> Mapping[str, Sequence[Any]]:
    return dict(zip(LOOKED_AT, zip(*rows, strict=True) if rows else [()] * len(LOOKED_AT), strict=True))
