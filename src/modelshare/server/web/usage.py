"""The page of a project's usage, and of the usage of its models by others."""

import datetime as dt
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Response

from modelshare.server.endpoints import deployment_stats
from modelshare.server.paging import Paging
from modelshare.server.router import usage
from modelshare.server.web.context import EndpointsPage
from modelshare.server.web.pages import PageRoute
from modelshare.server.web.plots import Bar
from modelshare.wire.keys import Scope

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_PAGE: Final = "/dashboard/{project}/usage"
_SPANS: Final = (7, 30, 90)
"""Days."""
_MAX: Final = 50
"""Rows of a table."""


@router.get(_PAGE)
async def usage_page(
    page: EndpointsPage,
    days: Annotated[Literal["7", "30", "90"], Query()] = "30",
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    today = dt.datetime.fromtimestamp(page.now, dt.UTC).date()
    span = (today - dt.timedelta(int(days) - 1), today)
    by_day = await usage.by_day(page.session, page.caller, span)
    named = {
        what: await usage.by_name(page.session, page.caller, what, span, _MAX)
        for what in ("endpoint", "model", "key", "tier")
    }
    deployed, cursor = (
        await deployment_stats.overview(page.session, page.caller, Paging(_MAX, after))
        if page.caller.allows(Scope.MODELS)
        else ([], None)
    )
    return page.render(
        "dashboard/usage.html",
        days=int(days),
        spans=_SPANS,
        by_day=by_day,
        requests=[Bar(str(row.day), row.requests) for row in by_day],
        tokens=[Bar(str(row.day), row.prompt_tokens + row.completion_tokens) for row in by_day],
        by_name=named,
        has_costs=any(row.cost for row in by_day),
        span=span,
        limit=_MAX,
        deployed=deployed,
        cursor=cursor,
    )
