"""The playground: try an endpoint from the browser. Nothing of it is kept; the page talks to the endpoint itself."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from modelshare.server.endpoints import presenters, service
from modelshare.server.http import BaseUrl, Paging, ReadSession
from modelshare.server.web.page_auth import EndpointsCaller
from modelshare.server.web.pages import PageRoute, render
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.endpoints import EndpointStatus

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_PAGE: Final = "/dashboard/{project}/playground"
_EMBEDDING: Final = "embedding"


@router.get(_PAGE)
async def playground(
    request: Request,
    caller: EndpointsCaller,
    session: ReadSession,
    base_url: BaseUrl,
    endpoint: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """For the endpoint that is named, else the newest that serves."""
    rows, _ = await service.page(session, caller, Paging(PAGE_LIMIT_MAX, None))
    serving = [row for row in rows if row.status == EndpointStatus.ACTIVE]
    row = await service.get(session, caller, endpoint) if endpoint else next(iter(serving or rows), None)
    model = presenters.serves(row) if row else None
    return render(
        request,
        "dashboard/playground.html",
        slugs=[(each.slug, each.slug) for each in rows],
        endpoint=presenters.view(row, base_url) if row else None,
        embeds=model is not None and model.task == _EMBEDDING,
    )
