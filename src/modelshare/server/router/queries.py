"""Queries for endpoints and usage."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, case, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import scoped_to
from modelshare.server.endpoints.tables import EndpointRow, UsageRow

_HAS_SLUG = and_(EndpointRow.project_id == UsageRow.project_id, EndpointRow.slug == UsageRow.endpoint_slug)
"""Joins the endpoint that has the slug now, which is another one if the used one was deleted."""
_DELETED: ColumnElement[str] = literal_column("' (deleted)'")
_ENDPOINT = case(
    (EndpointRow.id != UsageRow.endpoint_id, UsageRow.endpoint_slug.concat(_DELETED)), else_=UsageRow.endpoint_slug
)
COLUMNS: dict[str, SQLColumnExpression[Any]] = {
    "day": UsageRow.day,
    "endpoint": _ENDPOINT,
    "model": UsageRow.model_id,
    "key": UsageRow.key_id,
}
"""What usage can be grouped by."""
Names = dict[str, str | None]
"""What a group stands for, by column; ids as text."""
Counts = tuple[int, int, int, int, int]
"""Requests, errors, prompt tokens, completion tokens, requests whose tokens are estimates."""
Row = tuple[Names, Counts]


async def endpoint(session: AsyncSession, project_id: str, slug: str) -> EndpointRow | None:
    return await session.scalar(scoped_to(EndpointRow, project_id).where(EndpointRow.slug == slug))


async def usage(
    session: AsyncSession,
    project_id: str,
    group_by: Sequence[str],
    days: tuple[str, str],
    *,
    limit: int,
    offset: int = 0,
    busiest_first: bool = False,
) -> list[Row]:
    """Sums by group, the newest day or the busiest group first. `days`: the first and the last, both included."""
    columns = [COLUMNS[name] for name in group_by]
    counted = (UsageRow.requests, UsageRow.errors, UsageRow.prompt_tokens, UsageRow.completion_tokens)
    sums = [func.sum(column) for column in (*counted, UsageRow.estimated)]
    order = [column.desc() if name == "day" else column for name, column in zip(group_by, columns, strict=True)]
    statement = (
        select(*columns, *sums)
        .select_from(UsageRow)
        .outerjoin(EndpointRow, _HAS_SLUG)
        .where(UsageRow.project_id == project_id, UsageRow.day.between(*days))
        .group_by(*columns)
        .order_by(*([sums[0].desc()] if busiest_first else []), *order)
        .limit(limit)
        .offset(offset)
    )
    found: list[Row] = []
    for row in await session.execute(statement):
        names = [None if value is None else str(value) for value in row[: len(columns)]]
        requests, errors, prompt, completion, estimated = (int(count or 0) for count in row[len(columns) :])
        found.append((dict(zip(group_by, names, strict=True)), (requests, errors, prompt, completion, estimated)))
    return found
