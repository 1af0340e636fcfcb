"""`/v1/usage`, and `/metrics` for Prometheus."""

import datetime as dt
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import EndpointsCaller, PlatformDep, ProjectRoute, ReadSession, get_platform
from modelshare.server.paging import PagingDep
from modelshare.server.router import remaining, usage
from modelshare.server.router.remaining import RouterPlatform
from modelshare.wire.base import Page
from modelshare.wire.limits import LimitState
from modelshare.wire.usage import UsageRow

router = APIRouter(route_class=ProjectRoute, tags=["usage"])
public = APIRouter(tags=["health"])
_DAYS: Final = 30
"""The default period."""


def _group_by(
    group_by: Annotated[
        str, Query(description="Any of day, endpoint, model and key, separated by commas.")
    ] = "day,endpoint,model,key",
) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    if not names or not set(names) <= usage.GROUPS:
        raise InvalidRequestError(
            "`group_by` must be day, endpoint, model or key, or several separated by commas.", param="group_by"
        )
    return names


@router.get("/v1/usage")
async def list_usage(
    caller: EndpointsCaller,
    session: ReadSession,
    platform: PlatformDep,
    paging: PagingDep,
    group_by: Annotated[list[str], Depends(_group_by)],
    first: Annotated[dt.date | None, Query(alias="from")] = None,
    last: Annotated[dt.date | None, Query(alias="to")] = None,
) -> Page[UsageRow]:
    """Returns requests and tokens, grouped by `group_by`, newest day first. Days are in UTC; both ends are included."""
    today = dt.datetime.fromtimestamp(platform.now(), dt.UTC).date()
    return await usage.page(session, caller, group_by, (first or today - dt.timedelta(_DAYS), last or today), paging)


@router.get("/v1/usage/limits")
async def list_limits(
    caller: EndpointsCaller,
    session: ReadSession,
    platform: Annotated[RouterPlatform, Depends(get_platform)],
    paging: PagingDep,
) -> Page[LimitState]:
    """Returns what is left now of the limits of endpoints and keys and of the month's budgets.

    Endpoints are listed newest first, inactive ones left out; the first page has budgets and keys as well.
    """
    return await remaining.page(session, platform, caller, paging)


@public.get("/metrics", response_class=Response)
async def metrics(platform: PlatformDep) -> Response:
    """Returns the metrics of this process in Prometheus text format."""
    return Response(generate_latest(platform.metrics), media_type=CONTENT_TYPE_LATEST)
