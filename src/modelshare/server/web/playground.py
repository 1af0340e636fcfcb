"""The playground: try an endpoint in the browser. The page calls the endpoint directly; nothing is stored."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from modelshare.server.endpoints import presenters, service
from modelshare.server.paging import Paging
from modelshare.server.web.context import EndpointsPage
from modelshare.server.web.pages import PageRoute
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.endpoints import EndpointStatus

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_PAGE: Final = "/dashboard/{project}/playground"
_EMBEDDING: Final = "embedding"


@router.get(_PAGE)
async def playground(page: EndpointsPage, endpoint: Annotated[str, Query(max_length=100)] = "") -> Response:
    """For the selected endpoint, else the newest active one."""
    rows, _ = await service.page(page.session, page.caller, Paging(PAGE_LIMIT_MAX))
    serving = [row for row in rows if row.status == EndpointStatus.ACTIVE]
    row = await service.get(page.session, page.caller, endpoint) if endpoint else next(iter(serving or rows), None)
    model = presenters.serves(row) if row else None
    return page.render(
        "dashboard/playground.html",
        slugs=[(each.slug, each.slug) for each in rows],
        endpoint=presenters.view(row, page.base_url) if row else None,
        embeds=model is not None and model.task == _EMBEDDING,
    )
