"""Reads the catalog for pages: the only module of the pages that calls its search."""

from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.sharing import presenters, search, service
from modelshare.server.sharing.search import Filters, SearchQuery, Viewer
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.catalog.query import FACETS, CatalogQuery
from modelshare.wire.models import CatalogModel

PAGE: Final = 24
"""Models on a page: divisible by one, two, three and four columns."""
MAX_FEATURED: Final = 6
"""Featured models shown above the list."""


class Facet(NamedTuple):
    name: str
    values: list[tuple[str, int]]
    """With the number of models."""


class Shelf(NamedTuple):
    """A page of the catalog."""

    models: list[CatalogModel]
    total: int
    total_is_exact: bool
    """If False, the total is a lower bound."""
    corrected: str | None
    """The corrected query, if the original one had no matches."""
    facets: list[Facet]
    next_cursor: str | None


async def shelf(
    session: AsyncSession, viewer: Viewer, tiers: TierRegistry, query: CatalogQuery, *, facets: bool = True
) -> Shelf:
    """The page of the query, limited to what the viewer may see."""
    spec = SearchQuery(_filters(query), query.sort, PAGE, query.after or None, facets)
    page = presenters.catalog_page(await search.find(session, viewer, spec), tiers)
    counts = page.facets or {}
    return Shelf(
        models=page.data,
        total=page.total,
        total_is_exact=page.total_is_exact,
        corrected=page.corrected,
        facets=[
            Facet(name, [(each.value, each.count) for each in counts[name]]) for name in FACETS if counts.get(name)
        ],
        next_cursor=page.next_cursor,
    )


async def featured(session: AsyncSession, tiers: TierRegistry) -> list[CatalogModel]:
    """The featured models, which are public."""
    return [presenters.catalog_view(card, tiers) for card in await service.featured(session, MAX_FEATURED)]


def _filters(query: CatalogQuery) -> Filters:
    parameters, context = query.parameter_range, query.context_range
    return Filters(
        q=query.q.strip() or None,
        family=query.family or None,
        tag=query.tag or None,
        license=query.license or None,
        architecture=query.architecture or None,
        format=query.format or None,
        role=query.role,
        min_parameters=parameters.low,
        max_parameters=parameters.high,
        min_context=context.low,
        max_context=context.high,
    )
