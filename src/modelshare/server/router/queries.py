"""Queries for endpoints, usage and the ledger of limits."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    SQLColumnExpression,
    and_,
    case,
    delete,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import any_tenant, for_update, scoped_to, skip_locked, upsert
from modelshare.server.endpoints.tables import EndpointRow, UsageRow
from modelshare.server.router.stated_limits import Budget
from modelshare.server.router.tables import LedgerRow
from modelshare.wire.tiers import PRICE_SCALE

Columns = Mapping[str, SQLColumnExpression[Any]]
_IDLE_MS = 1500
"""Less than processes wait for the ledger before they go on without it."""
_KEY = (UsageRow.day, UsageRow.endpoint_id, UsageRow.key_id)
_HAS_SLUG = and_(EndpointRow.project_id == UsageRow.project_id, EndpointRow.slug == UsageRow.endpoint_slug)
"""Joins the endpoint that has the slug now, which is another one if the used one was deleted."""
_DELETED: ColumnElement[str] = literal_column("' (deleted)'")
_ENDPOINT = case(
    (
        EndpointRow.id != func.coalesce(UsageRow.of_endpoint_id, UsageRow.endpoint_id),
        UsageRow.endpoint_slug.concat(_DELETED),
    ),
    else_=UsageRow.endpoint_slug,
)
_TIER, _VERSION = func.nullif(UsageRow.tier, ""), func.nullif(UsageRow.version, "")
COLUMNS: Columns = {
    "day": UsageRow.day,
    "endpoint": _ENDPOINT,
    "model": UsageRow.model_id,
    "key": UsageRow.key_id,
    "tier": _TIER,
    "version": _VERSION,
}
"""What usage can be grouped by."""
MODEL_COLUMNS: Columns = {"day": UsageRow.day, "project": ProjectRow.name, "tier": _TIER, "version": _VERSION}
"""What a model's usage can be grouped by: nothing that is only the deployer's business."""


class Counts(NamedTuple):
    """In the order of `_COUNTED`."""

    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    estimated: int
    cost_micros: int
    cost_rest: int


_COUNTED = [getattr(UsageRow, name) for name in Counts._fields]
Names = dict[str, str | None]
"""What a group stands for, by column; ids as text."""
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
    statement = _sums(COLUMNS, group_by, days, busiest_first=busiest_first).outerjoin(EndpointRow, _HAS_SLUG)
    own = statement.where(UsageRow.project_id == project_id).limit(limit).offset(offset)
    return _rows(group_by, await session.execute(own))


async def model_usage(
    session: AsyncSession,
    model_id: uuid.UUID,
    group_by: Sequence[str],
    days: tuple[str, str],
    *,
    limit: int,
    offset: int = 0,
    busiest_first: bool = False,
) -> list[Row]:
    """As `usage`, of one model by all projects. Projects of the same name are different groups."""
    statement = _sums(MODEL_COLUMNS, group_by, days, busiest_first=busiest_first)
    named = statement.outerjoin(ProjectRow, ProjectRow.id == UsageRow.project_id)
    if "project" in group_by:
        named = named.group_by(UsageRow.project_id).order_by(UsageRow.project_id)
    found = await session.execute(named.where(UsageRow.model_id == model_id).limit(limit).offset(offset))
    return _rows(group_by, found)


UsageKey = tuple[str, uuid.UUID, uuid.UUID]
"""A row's primary key."""


async def usage_rows(
    session: AsyncSession, project_id: str, days: tuple[str, str], *, after: UsageKey | None, limit: int
) -> list[tuple[UsageRow, str]]:
    """A project's rows in the order of their keys, with the endpoints' names."""
    first, last = _period(days)
    statement = select(UsageRow, _ENDPOINT).outerjoin(EndpointRow, _HAS_SLUG).where(UsageRow.project_id == project_id)
    statement = statement.where(UsageRow.day.between(after[0] if after else first, last))
    if after is not None:
        statement = statement.where(tuple_(*_KEY) > after)
    return [(row, name) for row, name in await session.execute(statement.order_by(*_KEY).limit(limit))]


def _sums(
    named: Columns, group_by: Sequence[str], days: tuple[str, str], *, busiest_first: bool
) -> Select[*tuple[Any, ...]]:
    columns = [named[name] for name in group_by]
    sums = [func.sum(column) for column in _COUNTED]
    order = [column.desc() if name == "day" else column for name, column in zip(group_by, columns, strict=True)]
    return (
        select(*columns, *sums)
        .select_from(any_tenant(UsageRow))
        .where(UsageRow.day.between(*_period(days)))
        .group_by(*columns)
        .order_by(*([sums[0].desc()] if busiest_first else []), *order)
    )


def _period(days: tuple[str, str]) -> tuple[str, str]:
    """With the total of a month that is rolled up, `YYYY-MM`, if the month's first day is included."""
    first, last = days
    return first.removesuffix("-01"), last


def _rows(group_by: Sequence[str], found: Iterable[Sequence[Any]]) -> list[Row]:
    rows: list[Row] = []
    for row in found:
        names = [None if value is None else str(value) for value in row[: len(group_by)]]
        counts = Counts(*(int(count or 0) for count in row[len(group_by) :]))
        rows.append((dict(zip(group_by, names, strict=True)), counts))
    return rows


async def lock_ledger(session: AsyncSession, subjects: Sequence[str]) -> dict[str, LedgerRow]:
    """Those of the rows that exist, locked in the order of their subjects.

    PostgreSQL ends the transaction if it then does nothing for `_IDLE_MS`: its process was stopped.
    """
    statement = for_update(select(LedgerRow).where(LedgerRow.subject.in_(subjects)).order_by(LedgerRow.subject))
    if session.get_bind().dialect.name == "postgresql":
        limit = func.set_config("idle_in_transaction_session_timeout", str(_IDLE_MS), literal(value=True))
        return {row.subject: row for row, _ in await session.execute(statement.add_columns(limit))}
    return {row.subject: row for row in await session.scalars(statement)}


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


async def used_in_month(session: AsyncSession, budget: Budget) -> tuple[int, float]:
    """The tokens of a budget's key or project, and their cost in millionths, as recorded when they were counted."""
    tokens = func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens)
    statement = (
        select(tokens, func.sum(UsageRow.cost_micros), func.sum(UsageRow.cost_rest))
        .where(UsageRow.project_id == budget.project_id)
        .where(UsageRow.day.between(f"{budget.month.name}-01", f"{budget.month.name}-31"))
    )
    if budget.key_id is not None:
        statement = statement.where(UsageRow.key_id == budget.key_id)
    used, micros, rest = (int(total or 0) for total in (await session.execute(statement)).one())
    return used, micros + rest / PRICE_SCALE


async def used_by_key(session: AsyncSession, project_id: str, month: str) -> dict[uuid.UUID, tuple[int, float]]:
    """As `used_in_month`, of each key of the project that used something. `month`: such as `2026-11`."""
    tokens = func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens)
    statement = (
        select(UsageRow.key_id, tokens, func.sum(UsageRow.cost_micros), func.sum(UsageRow.cost_rest))
        .where(UsageRow.project_id == project_id)
        .where(UsageRow.day.between(f"{month}-01", f"{month}-31"))
        .group_by(UsageRow.key_id)
    )
    found = await session.execute(statement)
    return {key_id: (int(used), int(micros) + int(rest) / PRICE_SCALE) for key_id, used, micros, rest in found}


async def forget_ledger(session: AsyncSession, now: int) -> None:
    """Deletes rows that have expired, except those that a process is using."""
    expired = skip_locked(select(LedgerRow).where(LedgerRow.expires_at < now)).with_only_columns(LedgerRow.subject)
    await session.execute(delete(LedgerRow).where(LedgerRow.subject.in_(expired)))
