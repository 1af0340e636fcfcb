"""`/v1/usage`, `/v1/models/{id}/usage`, and `/metrics` for Prometheus."""

import datetime as dt
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import (
    EndpointsCaller,
    ModelId,
    ModelsCaller,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    get_platform,
)
from modelshare.server.paging import PagingDep
from modelshare.server.router import export, remaining, usage
from modelshare.server.router.remaining import RouterPlatform
from modelshare.wire.base import Page
from modelshare.wire.limits import LimitState
from modelshare.wire.usage import ModelUsageRow, UsageRow

router = APIRouter(route_class=ProjectRoute, tags=["usage"])
public = APIRouter(tags=["health"])
_DAYS: Final = 30
"""The default period."""


def _group_by(
    group_by: Annotated[
        str, Query(description="Any of day, endpoint, model, key, tier and version, separated by commas.")
    ] = "day,endpoint,model,key",
) -> list[str]:
    return _columns(group_by, usage.GROUPS)


def _model_group_by(
    group_by: Annotated[
        str, Query(description="Any of day, project, tier and version, separated by commas.")
    ] = "day,project,tier,version",
) -> list[str]:
    return _columns(group_by, usage.MODEL_GROUPS)


def _columns(text: str, known: frozenset[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names or not set(names) <= known:
        *others, last = sorted(known)
        raise InvalidRequestError(
            f"`group_by` must be {', '.join(others)} or {last}, or several separated by commas.", param="group_by"
        )
    return names


def _days(
    platform: PlatformDep,
    first: Annotated[dt.date | None, Query(alias="from")] = None,
    last: Annotated[dt.date | None, Query(alias="to")] = None,
) -> usage.Days:
    today = dt.datetime.fromtimestamp(platform.now(), dt.UTC).date()
    return first or today - dt.timedelta(_DAYS), last or today


DaysDep = Annotated[usage.Days, Depends(_days)]


@router.get("/v1/usage")
async def list_usage(
    caller: EndpointsCaller,
    session: ReadSession,
    paging: PagingDep,
    days: DaysDep,
    group_by: Annotated[list[str], Depends(_group_by)],
) -> Page[UsageRow]:
    """Returns requests, tokens and costs, grouped by `group_by`, newest day first. Days are in UTC; both ends are
    included.
    """
    return await usage.page(session, caller, group_by, days, paging)


@router.get(
    "/v1/usage/export",
    response_class=StreamingResponse,
    responses={200: {"description": "All rows", "content": {"text/csv": {}, "application/json": {}}}},
)
async def export_usage(
    caller: EndpointsCaller,
    platform: PlatformDep,
    days: DaysDep,
    format: Annotated[Literal["csv", "json"], Query()] = "csv",  # noqa: A002 - the parameter's name
) -> StreamingResponse:
    """Returns all usage by day, endpoint, key, tier and version as one file, oldest day first."""
    rows = (export.as_csv if format == "csv" else export.as_json)(platform, caller, days)
    name = f"usage-{days[0]}-to-{days[1]}.{format}"
    media_type = "text/csv; charset=utf-8; header=present" if format == "csv" else "application/json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(rows, media_type=media_type, headers=headers)


@router.get("/v1/models/{model_id}/usage", tags=["models"])
async def model_usage(
    caller: ModelsCaller,
    model_id: ModelId,
    session: ReadSession,
    paging: PagingDep,
    days: DaysDep,
    group_by: Annotated[list[str], Depends(_model_group_by)],
) -> Page[ModelUsageRow]:
    """Returns how much a model of yours is used by all projects: counts, grouped by `group_by`, newest day first.

    Contains nothing of their requests, nor of their endpoints and keys.
    """
    return await usage.model_page(session, caller, model_id, group_by, days, paging)


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
