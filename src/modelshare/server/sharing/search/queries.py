"""All queries for catalog entries, for both databases."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    String,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    table,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload, selectinload

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import any_tenant, skip_locked, upsert
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing.search.cards import CatalogCard
from modelshare.server.sharing.search.ranges import Range
from modelshare.server.sharing.search.tables import BEFORE_FORM, CatalogEntryRow, CatalogWordRow
from modelshare.server.sharing.search.terms import IS_PUBLIC, IS_TARGETED, Condition, Filters, Sort, Term
from modelshare.server.sharing.tables import ShareProjectRow, ShareRow

_CARD_COLUMNS = (
    *(ModelRow.id, ModelRow.name, ModelRow.display_name, ModelRow.description, ModelRow.tags, ModelRow.license),
    *(ProjectRow.slug, ProjectRow.name),
    *(VersionRow.architecture, VersionRow.family, VersionRow.format, VersionRow.parameters),
    *(VersionRow.context_length, VersionRow.quantization, VersionRow.task, VersionRow.size_bytes, VersionRow.version),
    *(VersionRow.signature_state, VersionRow.signer),
    *(ShareRow.audience, ShareRow.role, ShareRow.deployment_count, ShareRow.featured, ShareRow.shared_at),
)
"""In the order of `CatalogCard`'s fields."""
SOURCE = (
    select(
        ModelRow.id.label("model_id"),
        ModelRow.project_id,
        ProjectRow.slug.label("owner"),
        ModelRow.name,
        ModelRow.display_name,
        ModelRow.description,
        ModelRow.tags,
        ModelRow.license,
        ShareRow.audience,
        ShareRow.role,
        ShareRow.deployment_count,
        VersionRow.version,
        VersionRow.format,
        VersionRow.architecture,
        VersionRow.family,
        VersionRow.parameters,
        VersionRow.context_length,
    )
    .select_from(ShareRow)
    .join(ModelRow, ModelRow.id == ShareRow.model_id)
    .join(ProjectRow, ProjectRow.id == ModelRow.project_id)
    .outerjoin(VersionRow, and_(VersionRow.model_id == ModelRow.id, VersionRow.is_latest))
)
"""The columns from which entries are built."""
AnyRow = Row[*tuple[Any, ...]]
AnySelect = Select[*tuple[Any, ...]]
Entry = tuple[ShareRow, ModelRow, VersionRow]
_INDEX = table("catalog_index", column("rowid"), column("catalog_index"))
"""For SQLite; a column with the table's name refers to the whole row."""
_TARGETED = IS_TARGETED[0].text
_VECTOR: ColumnElement[Any] = literal_column("catalog_entries.terms_vector")
"""For PostgreSQL."""
_ENTRIES = CatalogEntryRow.__table__.c
"""The columns without the ORM, for speed: a page may read a thousand rows."""
LOOKED_AT = (
    *("id", "name", "deployment_count", "parameters", "context_length"),
    *("family", "license", "architecture", "format", "role", "tags"),
)
"""The columns for sorting and counting, without the terms, which are long."""
_MAX_ALIKE = 200
_MAX_SKIPPED = 20_000
"""Entries in an order; those beyond have hardly any deployments."""
_RANGED = (_ENTRIES.parameters, _ENTRIES.context_length)
SORTED_BY: dict[Sort, tuple[str, bool]] = {
    Sort.RELEVANCE: ("deployment_count", True),
    Sort.DEPLOYMENTS: ("deployment_count", True),
    Sort.RECENT: ("id", True),
    Sort.PARAMETERS: ("parameters", True),
    Sort.NAME: ("name", False),
}
"""The column of each order, and whether it is descending; the ID, in the same direction, makes the order total."""


class Place(NamedTuple):
    """The position of an entry in an order."""

    value: Any
    id: int


class Walk(NamedTuple):
    """The matches found by a scan, and the place it reached; None at the end."""

    found: list[Place]
    came_to: Place | None


async def matches(session: AsyncSession, wanted: Sequence[Condition], limit: int) -> Sequence[AnyRow]:
    """Up to `limit` entries that meet the conditions, in no particular order."""
    statement = _matching(session, wanted, *(_ENTRIES[name] for name in LOOKED_AT))
    return (await session.execute(statement.limit(limit))).all()


async def deployed(
    session: AsyncSession, wanted: Sequence[Condition], filters: Filters, but: Term | None, limit: int
) -> list[Place]:
    """Entries that meet the conditions and do not have the term `but`, with their deployments, in no particular
    order."""
    columns = (_ENTRIES.deployment_count, _ENTRIES.id)
    statement = _matching(session, wanted, *columns, but=but).where(*_within(_ENTRIES, filters))
    return [Place(*row) for row in await session.execute(statement.limit(limit))]


async def deployments_at(session: AsyncSession, number: int, wanted: Sequence[Condition], first: Sequence[int]) -> int:
    """Estimates the deployments that `number` of the matches reach, assuming that matches are like all other entries.

    `first`: IDs of some matches; on SQLite those shared first, from which the number of matches is estimated. On
    PostgreSQL the planner estimates it.
    """
    newest = await session.scalar(select(func.max(_ENTRIES.id))) or 0
    if _is_sqlite(session):
        rank = number * max(first, default=0) // max(len(first), 1)
    else:
        rank = number * newest // max(await _planned(session, wanted), number)
    order = select(_ENTRIES.deployment_count).order_by(_ENTRIES.deployment_count.desc(), _ENTRIES.id.desc())
    return await session.scalar(order.offset(min(rank, newest, _MAX_SKIPPED)).limit(1)) or 0


async def _planned(session: AsyncSession, wanted: Sequence[Condition]) -> int:
    """The number of entries that PostgreSQL's planner expects."""
    statement = (
        f"EXPLAIN (FORMAT JSON) SELECT FROM catalog_entries WHERE terms_vector @@ $asked${_tsquery(wanted)}$asked$"
    )
    plan = await session.scalar(text(statement))
    return int(plan[0]["Plan"]["Plan Rows"])


async def newest(
    session: AsyncSession,
    wanted: Sequence[Condition],
    filters: Filters,
    but: Term | None,
    before: int | None,
    limit: int,
) -> list[int]:
    """Like `deployed`, most recently shared first, starting before the ID `before`."""
    place = _ENTRIES.id if not _is_sqlite(session) else _INDEX.c.rowid
    statement = _matching(session, wanted, place, but=but).where(*_within(_ENTRIES, filters))
    if before is not None:
        statement = statement.where(place < before)
    return list(await session.scalars(statement.order_by(place.desc()).limit(limit)))


async def count(session: AsyncSession, wanted: Sequence[Condition], limit: int) -> int:
    """The number of entries that meet the conditions, counted up to `limit`."""
    if _is_sqlite(session):
        found = select(_INDEX.c.rowid).where(_INDEX.c.catalog_index.op("MATCH")(_fts(wanted)))
    else:
        found = _matching(session, wanted, _ENTRIES.id)
    return int(await session.scalar(select(func.count()).select_from(found.limit(limit).subquery())) or 0)


async def first(
    session: AsyncSession, wanted: Sequence[Condition], filters: Filters, sort: Sort, after: Place | None, limit: int
) -> list[Place]:
    """The first matches in this order, sorted by the database; for up to some thousands of matches."""
    key, falls = SORTED_BY[sort]
    matching = _matching(session, wanted, _ENTRIES[key].label("key"), _ENTRIES.id, *_RANGED).subquery()
    statement = select(matching.c.key, matching.c.id).where(*_within(matching.c, filters))
    return [
        Place(*row)
        for row in await session.execute(_in_order(statement, matching.c.key, matching.c.id, falls, after).limit(limit))
    ]


async def walk(
    session: AsyncSession,
    wanted: Sequence[Condition],
    filters: Filters,
    sort: Sort,
    after: Place | None,
    *,
    steps: int,
    limit: int,
) -> Walk:
    """Scans the entries in this order until enough match, up to a limit of steps."""
    key, falls = SORTED_BY[sort]
    path = select(_ENTRIES[key].label("key"), _ENTRIES.id, _ENTRIES.terms, *_RANGED)
    if sort is Sort.PARAMETERS:
        path = path.where(*_bounds(_ENTRIES.parameters, filters.parameters))
    path = _in_order(path, _ENTRIES[key], _ENTRIES.id, falls, after)
    stretch = path.limit(steps).subquery()
    fits = [_meets(session, stretch.c.terms, condition) for condition in wanted] + _within(stretch.c, filters)
    found = await session.execute(select(stretch.c.key, stretch.c.id).where(*fits).limit(limit))
    places = [Place(*row) for row in found]
    if len(places) == limit:
        return Walk(places, places[-1])
    last = path.with_only_columns(_ENTRIES[key], _ENTRIES.id).offset(steps - 1).limit(1)
    came_to = (await session.execute(last)).first()
    return Walk(places, Place(*came_to) if came_to else None)


async def words_by_form(session: AsyncSession, forms: Collection[str]) -> Sequence[str]:
    """Known words that have one of these forms."""
    statement = select(CatalogWordRow.word).where(CatalogWordRow.form.in_(forms)).distinct()
    return (await session.scalars(statement.order_by(CatalogWordRow.word).limit(_MAX_ALIKE))).all()


async def cards(session: AsyncSession, ids: Sequence[int]) -> list[CatalogCard]:
    """The cards of these entries, in this order."""
    statement = select_cards(CatalogEntryRow.id).join(CatalogEntryRow, CatalogEntryRow.model_id == ShareRow.model_id)
    found = {
        row[-1]: CatalogCard(*row[:-1]) for row in await session.execute(statement.where(CatalogEntryRow.id.in_(ids)))
    }
    return [found[id_] for id_ in ids if id_ in found]


async def entry(session: AsyncSession, visible: Sequence[Condition], model_id: uuid.UUID) -> Entry | None:
    """One model of the catalog with all its versions."""
    statement = (
        select(ShareRow, any_tenant(ModelRow), VersionRow)
        .join(CatalogEntryRow, CatalogEntryRow.model_id == ShareRow.model_id)
        .join(ModelRow, ModelRow.id == ShareRow.model_id)
        .join(VersionRow, and_(VersionRow.model_id == ModelRow.id, VersionRow.is_latest))
        .options(joinedload(ModelRow.project), selectinload(ModelRow.versions))
        .where(ShareRow.model_id == model_id)
    )
    statement = statement.where(*(_meets(session, CatalogEntryRow.terms, condition) for condition in visible))
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else (row[0], row[1], row[2])


def _matching(session: AsyncSession, wanted: Sequence[Condition], *columns: Any, but: Term | None = None) -> AnySelect:
    """Selects entries that meet the conditions and do not have the term `but`."""
    if _is_sqlite(session):
        statement = select(*columns).select_from(CatalogEntryRow.__table__).join(_INDEX, _INDEX.c.rowid == _ENTRIES.id)
        match = _fts(wanted) + (f' NOT "{but.text}"' if but else "")
        return statement.where(_INDEX.c.catalog_index.op("MATCH")(match))
    # A literal, not a parameter: the best plan depends on how frequent the words are.
    match = _tsquery(wanted) + (f" & !'{but.text}'" if but else "")
    asked = cast(bindparam(None, match, String, literal_execute=True), TSQUERY)
    return select(*columns).where(_VECTOR.op("@@")(asked))


def _tsquery(wanted: Sequence[Condition]) -> str:
    """The conditions in PostgreSQL's query language."""
    rest, is_public = _but_public(wanted)
    asked = [_alternatives(condition, " | ", "'") for condition in rest]
    return " & ".join([*asked, f"!'{_TARGETED}'"] if is_public else asked)


def _fts(wanted: Sequence[Condition]) -> str:
    """The conditions in FTS5's query language."""
    rest, is_public = _but_public(wanted)
    asked = " AND ".join(_alternatives(condition, " OR ", '"') for condition in rest)
    return f'(({asked}) NOT "{_TARGETED}")' if is_public else f"({asked})"


def _but_public(wanted: Sequence[Condition]) -> tuple[Sequence[Condition], bool]:
    """The other conditions, and whether the entry must be public, if there are others.

    Public is checked as not targeted: that term's list is short, while nearly all entries are public.
    """
    rest = [condition for condition in wanted if condition != IS_PUBLIC]
    return (rest, True) if 0 < len(rest) < len(wanted) else (wanted, False)


def _alternatives(condition: Condition, either: str, quote: str) -> str:
    """The condition in a query language. Terms consist of letters, digits and underscores, so nothing needs
    escaping."""
    return f"({either.join(f'{quote}{term.text}{quote}' for term in condition)})"


def _meets(session: AsyncSession, terms: Any, condition: Condition) -> ColumnElement[bool]:
    """The condition on the terms column."""
    place = func.instr if _is_sqlite(session) else func.strpos
    return or_(*(place(terms, f" {term.text} ") > 0 for term in condition))


def _in_order(statement: AnySelect, key: Any, id_: Any, falls: bool, after: Place | None) -> AnySelect:
    """Starts after the place (keyset paging), so that every page has the same cost."""
    if after is not None:
        here = tuple_(key, id_)
        statement = statement.where(here < after if falls else here > after)
    return statement.order_by(*(each.desc() if falls else each.asc() for each in (key, id_)))


def _within(columns: Any, filters: Filters) -> list[ColumnElement[bool]]:
    """The exact conditions for numbers, which terms contain only in buckets."""
    return _bounds(columns.parameters, filters.parameters) + _bounds(columns.context_length, filters.context)


def _bounds(number: Any, wanted: Range) -> list[ColumnElement[bool]]:
    """An unknown number is in no range."""
    if wanted.is_everything:
        return []
    return [number >= max(wanted.low or 0, 1), *([] if wanted.high is None else [number <= wanted.high])]


def _is_sqlite(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def select_cards(*more: Any) -> Select[*tuple[Any, ...]]:
    """A card's columns, then `more`, of all shared models with a latest version."""
    return (
        select(*_CARD_COLUMNS, *more)
        .select_from(ShareRow)
        .join(ModelRow, ModelRow.id == ShareRow.model_id)
        .join(VersionRow, and_(VersionRow.model_id == ModelRow.id, VersionRow.is_latest))
        .join(ProjectRow, ProjectRow.id == ModelRow.project_id)
    )


async def entry_source(session: AsyncSession, model_id: uuid.UUID) -> AnyRow | None:
    return (await session.execute(SOURCE.where(ShareRow.model_id == model_id))).one_or_none()


async def shown_to_projects(session: AsyncSession, model_id: uuid.UUID) -> Sequence[str]:
    statement = select(any_tenant(ShareProjectRow).project_id).where(ShareProjectRow.model_id == model_id)
    return (await session.scalars(statement.order_by(ShareProjectRow.project_id))).all()


async def write_entry(session: AsyncSession, model_id: uuid.UUID, values: dict[str, str | int | bool | None]) -> None:
    statement = upsert(session, CatalogEntryRow).values(model_id=model_id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=[CatalogEntryRow.model_id], set_=values))


async def outdated(session: AsyncSession, after: int, limit: int) -> Sequence[tuple[int, uuid.UUID]]:
    """IDs of entries of an older form, and of their models."""
    statement = select(CatalogEntryRow.id, CatalogEntryRow.model_id).where(BEFORE_FORM, CatalogEntryRow.id > after)
    return [(id_, model_id) for id_, model_id in await session.execute(statement.order_by("id").limit(limit))]


async def without_entry(session: AsyncSession, limit: int) -> Sequence[uuid.UUID]:
    """Shared models that have no entry."""
    statement = select(ShareRow.model_id).outerjoin(CatalogEntryRow, CatalogEntryRow.model_id == ShareRow.model_id)
    return (await session.scalars(statement.where(CatalogEntryRow.id.is_(None)).limit(limit))).all()


async def lock_models(session: AsyncSession, ids: Collection[uuid.UUID]) -> Sequence[uuid.UUID]:
    """Locks these models, except those that others have locked."""
    statement = select(any_tenant(ModelRow).id).where(ModelRow.id.in_(ids)).order_by(ModelRow.id)
    return (await session.scalars(skip_locked(statement))).all()


async def unlearned(session: AsyncSession, after: int, limit: int) -> Sequence[CatalogEntryRow]:
    """Entries whose words are not learned yet, skipping locked ones."""
    statement = select(CatalogEntryRow).where(CatalogEntryRow.is_learned.is_(False), CatalogEntryRow.id > after)
    return (await session.scalars(skip_locked(statement.order_by(CatalogEntryRow.id).limit(limit)))).all()


async def add_words(session: AsyncSession, rows: list[dict[str, str]]) -> None:
    await session.execute(upsert(session, CatalogWordRow).on_conflict_do_nothing(), rows)


async def mark_learned(session: AsyncSession, ids: Collection[int]) -> None:
    await session.execute(update(CatalogEntryRow).where(CatalogEntryRow.id.in_(ids)).values(is_learned=True))
