"""Queries for endpoints, usage and the ledger of limits."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, and_, case, delete, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.db import for_update, scoped_to, skip_locked, upsert
from modelshare.server.endpoints.tables import EndpointRow, UsageRow
from modelshare.server.router.stated_limits import Budget
from modelshare.server.router.tables import LedgerRow

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
    """With its project."""
    statement = scoped_to(EndpointRow, project_id).where(EndpointRow.slug == slug)
    return await session.scalar(statement.options(joinedload(EndpointRow.project)))


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


async def lock_ledger(session: AsyncSession, subjects: Sequence[str]) -> dict[str, LedgerRow]:
    """Those of the rows that exist, locked in the order of their subjects."""
    statement = select(LedgerRow).where(LedgerRow.subject.in_(subjects)).order_by(LedgerRow.subject)
    return {row.subject: row for row in await session.scalars(for_update(statement))}


async def ledger(session: AsyncSession, subjects: Sequence[str]) -> list[LedgerRow]:
    """Those of the rows that exist."""
    return list(await session.scalars(select(LedgerRow).where(LedgerRow.subject.in_(subjects))))


async def add_to_ledger(session: AsyncSession, used: Sequence[tuple[str, float]], now: float) -> None:
    """Adds rows, unless another process has done so meanwhile. `used`: subjects in order, and what was used."""
    rows = [
        {"subject": subject, "used": before, "updated_at": now, "loans": {}, "warned": 0, "expires_at": int(now)}
        for subject, before in used
    ]
    await session.execute(upsert(session, LedgerRow).values(rows).on_conflict_do_nothing())


async def tokens_in_month(session: AsyncSession, budget: Budget) -> dict[str, int]:
    """The tokens of a budget's key or project, by the tier that their endpoints have now; "" for deleted ones."""
    tier = func.coalesce(EndpointRow.tier, "")
    statement = (
        select(tier, func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens))
        .outerjoin(EndpointRow, EndpointRow.id == UsageRow.endpoint_id)
        .where(UsageRow.project_id == budget.project_id)
        .where(UsageRow.day.between(f"{budget.month.name}-01", f"{budget.month.name}-31"))
        .group_by(tier)
    )
    if budget.key_id is not None:
        statement = statement.where(UsageRow.key_id == budget.key_id)
    return {slug: int(tokens) for slug, tokens in await session.execute(statement)}


async def forget_ledger(session: AsyncSession, now: int) -> None:
    """Deletes rows that have expired, except those that a process is using."""
    expired = skip_locked(select(LedgerRow).where(LedgerRow.expires_at < now)).with_only_columns(LedgerRow.subject)
    await session.execute(delete(LedgerRow).where(LedgerRow.subject.in_(expired)))
