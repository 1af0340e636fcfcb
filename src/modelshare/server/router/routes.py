"""`/v1/usage`, and `/metrics` for Prometheus."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import people
from modelshare.server.errors import InvalidRequest
from modelshare.server.http import (
    Caller,
    PagingDep,
    PlatformDep,
    ProjectRoute,
    ReadSession,
    decode_cursor,
    encode_cursor,
    require,
)
from modelshare.server.router import queries
from modelshare.wire.base import Page
from modelshare.wire.keys import Scope
from modelshare.wire.usage import UsageRow

router = APIRouter(route_class=ProjectRoute, tags=["usage"])
public = APIRouter(tags=["health"])
EndpointsCaller = Annotated[Caller, Depends(require(Scope.ENDPOINTS))]
_DAYS: Final = 30
"""What is shown when no first day is named."""


def _group_by(
    group_by: Annotated[
        str, Query(description="Any of day, endpoint, model, key; by commas.")
    ] = "day,endpoint,model,key",
) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in group_by.split(",") if name.strip()))
    if not names or not set(names) <= queries.COLUMNS.keys():
        raise InvalidRequest("`group_by` takes day, endpoint, model and key, with commas between.", param="group_by")
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
    """Requests and tokens, summed by what `group_by` names; the newest day first. Days are UTC, both ends included."""
    today = dt.datetime.fromtimestamp(platform.now(), dt.UTC).date()
    days = ((first or today - dt.timedelta(_DAYS)).isoformat(), (last or today).isoformat())
    offset = max(0, decode_cursor(paging.after, int)[0]) if paging.after else 0
    rows = await queries.usage(session, caller.project, group_by, days, limit=paging.limit + 1, offset=offset)
    more = len(rows) > paging.limit
    rows = await _with_people(session, rows[: paging.limit])
    return Page(
        data=[_row(names, counts) for names, counts in rows],
        has_more=more,
        next_cursor=encode_cursor(offset + paging.limit) if more else None,
    )


@public.get("/metrics", response_class=Response)
async def metrics(platform: PlatformDep) -> Response:
    """What this process counts, in Prometheus' text form."""
    return Response(generate_latest(platform.parts[CollectorRegistry]), media_type=CONTENT_TYPE_LATEST)


async def _with_people(session: AsyncSession, rows: Sequence[queries.Row]) -> list[queries.Row]:
    """What people did in a browser is counted by their ids, as by keys'; here they are told apart."""
    ids = [uuid.UUID(key) for key in {names.get("key") for names, _ in rows} if key]
    found = {str(person_id) for person_id in await people.names(session, ids)}
    return [
        ({**names, "key": f"person:{names['key']}"} if names.get("key") in found else names, counts)
        for names, counts in rows
    ]


def _row(names: queries.Names, counts: queries.Counts) -> UsageRow:
    requests, errors, prompt_tokens, completion_tokens = counts
    return UsageRow(
        day=names.get("day"),
        endpoint=names.get("endpoint"),
        model=names.get("model"),
        key=names.get("key"),
        requests=requests,
        errors=errors,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )
