"""What the pages show of the catalog, from the domain that has it: the one place that knows how it is asked."""

import uuid
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import NotFoundError
from modelshare.server.sharing import presenters, search, service
from modelshare.server.sharing.search import Filters, SearchQuery, Viewer
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.catalog.query import FACETS, CatalogQuery
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import CatalogModel, CatalogModelDetail

PAGE: Final = 24
"""Models on a page: full rows of one, two, three or four."""
MAX_FEATURED: Final = 6
"""Stand above the list."""


class Facet(NamedTuple):
    name: str
    values: list[tuple[str, int]]
    """With how many models have each."""


class Shelf(NamedTuple):
    """A page of the catalog."""

    models: list[CatalogModel]
    total: int
    total_is_exact: bool
    """If not, there are at least so many."""
    corrected: str | None
    """The words that were searched for instead of those that nothing has."""
    facets: list[Facet]
    next_cursor: str | None


async def shelf(
    session: AsyncSession, viewer: Viewer, tiers: TierRegistry, query: CatalogQuery, *, facets: bool = True
) -> Shelf:
    """What the query asks for of what the viewer may see."""
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
    """What the platform features; it is public."""
    return [presenters.catalog_view(card, tiers) for card in await service.featured(session, MAX_FEATURED)]


async def model(session: AsyncSession, viewer: Viewer, tiers: TierRegistry, model_id: uuid.UUID) -> CatalogModelDetail:
    """One model. 404 when it is not there for the viewer."""
    found = await search.get(session, viewer, model_id)
    if found is None:
        raise NotFoundError(
            "There is no such model in the catalog; its owner may have unshared it.", code=ErrorCode.MODEL_NOT_FOUND
        )
    return presenters.catalog_detail(*found, tiers)


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
