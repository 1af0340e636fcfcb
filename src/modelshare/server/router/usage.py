"""Usage in requests, tokens and costs, of a project and of a model, for the API and for pages."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import people
from modelshare.server.accounts import service as accounts
from modelshare.server.http import Caller
from modelshare.server.ids import parse_uuid
from modelshare.server.paging import Paging, decode_cursor
from modelshare.server.registry import service as registry
from modelshare.server.router import queries
from modelshare.server.sharing import service as sharing
from modelshare.wire.base import Page
from modelshare.wire.tiers import PRICE_SCALE
from modelshare.wire.usage import ModelUsageRow, UsageRow

GROUPS: Final = frozenset(queries.COLUMNS)
"""The columns by which usage can be grouped."""
MODEL_GROUPS: Final = frozenset(queries.MODEL_COLUMNS)
Days = tuple[dt.date, dt.date]
"""The first and the last, both included; days are UTC."""
PERSON: Final = "person:"


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one endpoint, model, key or tier in a project's usage."""

    name: str
    """Its name, or its id if it no longer exists."""
    usage: UsageRow

    @property
    def is_person(self) -> bool:
        """Whether it was used by a person on the dashboard, not with a key."""
        return (self.usage.key or "").startswith(PERSON)


async def page(
    session: AsyncSession, caller: Caller, group_by: Sequence[str], days: Days, paging: Paging
) -> Page[UsageRow]:
    """Sums by group, the newest day first."""
    offset = _offset(paging)
    rows = await _sums(session, caller, group_by, days, limit=paging.fetch_limit, offset=offset)
    return Page.of(*paging.cut(rows, lambda _: (offset + paging.limit,)))


async def model_page(
    session: AsyncSession,
    caller: Caller,
    model_id: uuid.UUID,
    group_by: Sequence[str],
    days: Days,
    paging: Paging,
    *,
    busiest_first: bool = False,
) -> Page[ModelUsageRow]:
    """How much the caller's own model is used by all projects, the newest day first. 404 for another model."""
    await sharing.get(session, caller, model_id)
    offset = _offset(paging)
    first, last = (day.isoformat() for day in days)
    rows = await queries.model_usage(
        session,
        model_id,
        group_by,
        (first, last),
        limit=paging.fetch_limit,
        offset=offset,
        busiest_first=busiest_first,
    )
    found = [
        ModelUsageRow(**{name: names.get(name) for name in MODEL_GROUPS}, **_counts(counts)) for names, counts in rows
    ]
    return Page.of(*paging.cut(found, lambda _: (offset + paging.limit,)))


async def by_day(session: AsyncSession, caller: Caller, days: Days) -> list[UsageRow]:
    """Every day of `days`, oldest first, including days without requests."""
    first, last = days
    count = (last - first).days + 1
    found = {row.day: row for row in await _sums(session, caller, ["day"], days, limit=count)}
    names = [(first + dt.timedelta(number)).isoformat() for number in range(count)]
    return [found.get(name) or _row({"day": name}, queries.Counts(0, 0, 0, 0, 0, 0, 0)) for name in names]


async def by_name(session: AsyncSession, caller: Caller, what: str, days: Days, limit: int) -> list[Share]:
    """Usage per endpoint, model, key or tier (`what`), most requests first, up to `limit`."""
    rows = await _sums(session, caller, [what], days, limit=limit, busiest_first=True)
    ids = [str(getattr(row, what) or "unknown") for row in rows]
    named = {"model": _models, "key": _keys}.get(what)
    known = await named(session, caller, ids) if named else {}
    return [Share(known.get(id_, id_), row) for id_, row in zip(ids, rows, strict=True)]


async def _sums(
    session: AsyncSession,
    caller: Caller,
    group_by: Sequence[str],
    days: Days,
    *,
    limit: int,
    offset: int = 0,
    busiest_first: bool = False,
) -> list[UsageRow]:
    first, last = (day.isoformat() for day in days)
    rows = await queries.usage(
        session,
        caller.project,
        group_by,
        (first, last),
        limit=limit,
        offset=offset,
        busiest_first=busiest_first,
    )
    return [_row(names, counts) for names, counts in await _with_people(session, rows)]


async def _with_people(session: AsyncSession, rows: Sequence[queries.Row]) -> list[queries.Row]:
    """Marks usage from a browser, which is stored with the person's ID instead of a key's."""
    ids = [uuid.UUID(key) for key in {names.get("key") for names, _ in rows} if key]
    found = {str(person_id) for person_id in await people.names(session, ids)}
    return [
        ({**names, "key": f"{PERSON}{names['key']}"} if names.get("key") in found else names, counts)
        for names, counts in rows
    ]


async def _models(session: AsyncSession, _: Caller, ids: Collection[str]) -> dict[str, str]:
    found = await registry.served_names(session, _uuids(ids))
    return {str(model_id): name for model_id, name in found.items()}


async def _keys(session: AsyncSession, caller: Caller, ids: Collection[str]) -> dict[str, str]:
    keys = await accounts.key_names(session, caller, _uuids(ids))
    persons = await people.names(session, _uuids(id_.removeprefix(PERSON) for id_ in ids if id_.startswith(PERSON)))
    return {str(id_): name for id_, name in keys.items()} | {f"{PERSON}{id_}": name for id_, name in persons.items()}


def _uuids(ids: Iterable[str]) -> list[uuid.UUID]:
    return [uid for id_ in ids if (uid := parse_uuid(id_))]


def _offset(paging: Paging) -> int:
    return max(0, decode_cursor(paging.after, int)[0]) if paging.after else 0


def _row(names: queries.Names, counts: queries.Counts) -> UsageRow:
    return UsageRow(
        **{name: names.get(name) for name in GROUPS},
        **_counts(counts),
        cost=cost_of(counts.cost_micros, counts.cost_rest),
    )


def _counts(counts: queries.Counts) -> dict[str, Any]:
    requests, errors, prompt_tokens, completion_tokens, estimated, *_ = counts
    tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    estimates = {"estimated": estimated > 0, "estimated_requests": estimated}
    return {"requests": requests, "errors": errors, **tokens, **estimates}


def cost_of(micros: int, rest: int) -> Decimal:
    """In the unit of prices."""
    return (micros + Decimal(rest) / PRICE_SCALE) / PRICE_SCALE
