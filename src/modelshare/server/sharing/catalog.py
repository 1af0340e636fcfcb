"""The catalog: filters, sorts, pages and counts over the models that are shared, as far as the viewer may see them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, contains_eager, selectinload

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import json_values
from modelshare.server.http import decode_cursor, encode_cursor
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing.tables import ShareProjectRow, ShareRow
from modelshare.wire.sharing import Audience

Entry = tuple[ShareRow, ModelRow, VersionRow]


class Sort(StrEnum):
    RELEVANCE = "relevance"
    RECENT = "recent"
    DEPLOYMENTS = "deployments"
    PARAMETERS = "parameters"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: what is shared to certain projects exists for nobody else, in no list, search or count."""

    project_id: str | None = None
    """None: somebody without a key."""
    sees_all: bool = False


ANYBODY = Viewer()


@dataclass(frozen=True, slots=True)
class Filters:
    """What a model must have to be listed; None means anything."""

    q: str | None = None
    family: str | None = None
    tag: str | None = None
    license: str | None = None
    architecture: str | None = None
    format: str | None = None
    role: str | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    min_context: int | None = None


async def search(
    session: AsyncSession, viewer: Viewer, filters: Filters, sort: Sort, limit: int, after: str | None
) -> tuple[list[Entry], str | None]:
    """A page of the catalog and the cursor of the next one."""
    order = _order(sort, filters.q)
    keys = [column for column, _ in order]
    statement = _matching(session, viewer, select(ShareRow, ModelRow, VersionRow, *keys), filters)
    if after:
        kinds = [_kind(column, sort) for column in keys]
        statement = statement.where(_beyond(order, decode_cursor(after, *kinds)))
    statement = statement.order_by(*(column.desc() if falling else column.asc() for column, falling in order))
    rows = (await session.execute(statement.options(contains_eager(ModelRow.project)).limit(limit + 1))).all()
    more = len(rows) > limit
    rows = rows[:limit]
    cursor = encode_cursor(*(_plain(value) for value in rows[-1][3:])) if more else None
    return [(row[0], row[1], row[2]) for row in rows], cursor


async def entry(session: AsyncSession, viewer: Viewer, model_id: uuid.UUID) -> Entry | None:
    """One model of the catalog with all its versions."""
    statement = _matching(session, viewer, select(ShareRow, ModelRow, VersionRow), Filters())
    statement = statement.where(ShareRow.model_id == model_id)
    row = (
        await session.execute(statement.options(contains_eager(ModelRow.project), selectinload(ModelRow.versions)))
    ).one_or_none()
    return None if row is None else (row[0], row[1], row[2])


async def facets(
    session: AsyncSession, viewer: Viewer, filters: Filters, most: int = 50
) -> dict[str, list[tuple[str, int]]]:
    """How many of the matching models have each value, most frequent first."""
    columns: dict[str, InstrumentedAttribute[Any]] = {
        "family": VersionRow.family,
        "license": ModelRow.license,
        "architecture": VersionRow.architecture,
        "format": VersionRow.format,
        "role": ShareRow.role,
    }
    counts = {}
    for name, column in columns.items():
        statement = _matching(session, viewer, select(column, func.count()), filters).where(column.is_not(None))
        counts[name] = await _counted(session, statement, column, most)
    tags = json_values(session, ModelRow.tags)
    tag = tags.c.value
    statement = _matching(session, viewer, select(tag, func.count()), filters, tags)
    counts["tag"] = await _counted(session, statement, tag, most)
    return counts


async def _counted(
    session: AsyncSession, statement: Select[Any], column: ColumnElement[Any] | InstrumentedAttribute[Any], most: int
) -> list[tuple[str, int]]:
    statement = statement.group_by(column).order_by(func.count().desc(), column).limit(most)
    return [(str(value), count) for value, count in await session.execute(statement)]


def _matching(
    session: AsyncSession, viewer: Viewer, statement: Select[*tuple[Any, ...]], filters: Filters, *more: Any
) -> Select[*tuple[Any, ...]]:
    statement = (
        statement.select_from(ShareRow)
        .join(ModelRow, ModelRow.id == ShareRow.model_id)
        .join(VersionRow, and_(VersionRow.model_id == ModelRow.id, VersionRow.is_latest))
        .join(ProjectRow, ProjectRow.id == ModelRow.project_id)
    )
    for table in more:
        statement = statement.join(table, true())
    equal = {
        VersionRow.family: filters.family,
        VersionRow.architecture: filters.architecture,
        VersionRow.format: filters.format,
        ModelRow.license: filters.license,
        ShareRow.role: filters.role,
    }
    wanted: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    if not viewer.sees_all:
        wanted.append(_shows_to(viewer.project_id))
    if filters.min_parameters is not None:
        wanted.append(VersionRow.parameters >= filters.min_parameters)
    if filters.max_parameters is not None:
        wanted.append(VersionRow.parameters <= filters.max_parameters)
    if filters.min_context is not None:
        wanted.append(VersionRow.context_length >= filters.min_context)
    if filters.tag is not None:
        tags = json_values(session, ModelRow.tags)
        wanted.append(select(tags.c.value).where(tags.c.value == filters.tag).exists())
    wanted.extend(_has_word(word) for word in (filters.q or "").lower().split()[:10])
    return statement.where(*wanted)


def _shows_to(project_id: str | None) -> ColumnElement[bool]:
    """`rules.is_visible` as a condition, for models that are in the catalog."""
    public = ShareRow.audience == Audience.PUBLIC
    if project_id is None:
        return public
    named = select(ShareProjectRow.model_id).where(
        ShareProjectRow.model_id == ShareRow.model_id, ShareProjectRow.project_id == project_id
    )
    return or_(public, ModelRow.project_id == project_id, named.exists())


def _has_word(word: str) -> ColumnElement[bool]:
    columns = (
        ModelRow.name,
        ModelRow.display_name,
        ModelRow.description,
        ProjectRow.slug,
        VersionRow.family,
        VersionRow.architecture,
    )
    return or_(*(func.lower(column).contains(word, autoescape=True) for column in columns))


def _order(sort: Sort, q: str | None) -> Sequence[tuple[Any, bool]]:
    """Columns to sort by and whether each falls; the id makes the order total."""
    by_id = (ShareRow.model_id, True)
    if sort is Sort.RECENT:
        return [(ShareRow.shared_at, True), by_id]
    if sort is Sort.PARAMETERS:
        return [(func.coalesce(VersionRow.parameters, 0), True), by_id]
    if sort is Sort.NAME:
        return [(func.lower(ModelRow.name), False), by_id]
    if sort is Sort.DEPLOYMENTS or not q:
        return [(ShareRow.deployment_count, True), by_id]
    word, name = q.strip().lower(), func.lower(ModelRow.name)
    rank = case(
        (name == word, 3),
        (name.startswith(word, autoescape=True), 2),
        (name.contains(word, autoescape=True), 1),
        else_=0,
    )
    return [(rank, True), (ShareRow.deployment_count, True), by_id]


def _kind(column: Any, sort: Sort) -> type[int | str | uuid.UUID]:
    """What a cursor holds of this column."""
    if column is ShareRow.model_id:
        return uuid.UUID
    return str if sort is Sort.NAME else int


def _beyond(order: Sequence[tuple[Any, bool]], values: list[Any]) -> ColumnElement[bool]:
    """The rows after the one with these sort values: keyset paging, so a page costs the same wherever it is."""
    alternatives = []
    for position, (column, falling) in enumerate(order):
        value = values[position]
        same = [before == values[i] for i, (before, _) in enumerate(order[:position])]
        alternatives.append(and_(*same, column < value if falling else column > value))
    return or_(*alternatives)


def _plain(value: Any) -> str | int:
    return value if isinstance(value, int) else str(value)
