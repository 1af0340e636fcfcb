"""The page of featured models."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Form, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.ids import parse_uuid
from modelshare.server.sharing import search
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.search import ANYBODY, CatalogCard, Filters, SearchQuery, Sort
from modelshare.server.sharing.search.cards import card_of
from modelshare.server.web.context import AdminPage
from modelshare.server.web.pages import PageRoute

router = APIRouter(prefix="/featured", route_class=PageRoute)
_MAX_FEATURED: Final = 200
_MAX_FOUND: Final = 20


@router.get("")
async def featured(page: AdminPage, q: Annotated[str, Query(max_length=200)] = "") -> Response:
    return page.render(
        "platform/featured.html",
        featured=await sharing.featured(page.session, _MAX_FEATURED),
        found=await _found(page.session, q.strip()),
        q=q,
    )


@router.post("/{model_id}")
async def feature(page: AdminPage, model_id: uuid.UUID, featured: Annotated[bool, Form()]) -> Response:
    await sharing.feature(page.session, page.caller, model_id, featured=featured, now=page.now)
    words = "Model featured." if featured else "Model no longer featured."
    return page.redirect("/dashboard/-/platform/featured", words)


async def _found(session: AsyncSession, q: str) -> Sequence[CatalogCard]:
    """Public models that match words or an ID."""
    if model_id := parse_uuid(q):
        entry = await search.get(session, ANYBODY, model_id)
        return [card_of(*entry)] if entry else []
    if not q:
        return []
    spec = SearchQuery(Filters(q=q), Sort.RELEVANCE, _MAX_FOUND, None, facets=False)
    return (await search.find(session, ANYBODY, spec)).cards
