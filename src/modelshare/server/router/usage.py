"""A project's usage in requests and tokens, for the API and for pages."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import people
from modelshare.server.accounts import service as accounts
from modelshare.server.http import Caller
from modelshare.server.ids import parse_uuid
from modelshare.server.paging import Paging, decode_cursor
from modelshare.server.registry import service as registry
from modelshare.server.router import queries
from modelshare.wire.base import Page
from modelshare.wire.usage import UsageRow

GROUPS: Final = frozenset(queries.COLUMNS)
"""The columns by which usage can be grouped."""
Days = tuple[dt.date, dt.date]
"""The first and the last, both included; days are UTC."""
_PERSON: Final = "person:"


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one endpoint, model or key in a project's usage."""

    name: str
    """Its name, or its id if it no longer exists."""
    usage: UsageRow

    @property
    def is_person(self) -> bool:
        """Whether it was used by a person on the dashboard, not with a key."""
        return (self.usage.key or "").startswith(_PERSON)


async def page(
    session: AsyncSession, caller: Caller, group_by: Sequence[str], days: Days, paging: Paging
) -> Page[UsageRow]:
    """Sums by group, the newest day first."""
    offset = max(0, decode_cursor(paging.after, int)[0]) if paging.after else 0
    rows = await _sums(session, caller, group_by, days, limit=paging.fetch_limit, offset=offset)
    return Page.of(*paging.cut(rows, lambda _: (offset + paging.limit,)))


async def by_day(session: AsyncSession, caller: Caller, days: Days) -> list[UsageRow]:
    """Every day of `days`, oldest first, including days without requests."""
    first, last = days
    count = (last - first).days + 1
    found = {row.day: row for row in await _sums(session, caller, ["day"], days, limit=count)}
    names = [(first + dt.timedelta(number)).isoformat() for number in range(count)]
    return [found.get(name) or _row({"day": name}, (0, 0, 0, 0, 0)) for name in names]


async def by_name(session: AsyncSession, caller: Caller, what: str, days: Days, limit: int) -> list[Share]:
    """Usage per endpoint, model or key (`what`), most requests first, up to `limit`."""
    rows = await _sums(session, caller, [what], days, limit=limit, busiest_first=True)
    ids = [str(getattr(row, what)) for row in rows]
    known = {} if what == "endpoint" else await (_models if what == "model" else _keys)(session, caller, ids)
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
        ({**names, "key": f"{_PERSON}{names['key']}"} if names.get("key") in found else names, counts)
        for names, counts in rows
    ]


async def _models(session: AsyncSession, _: Caller, ids: Collection[str]) -> dict[str, str]:
    found = await registry.served_names(session, _uuids(ids))
    return {str(model_id): name for model_id, name in found.items()}


async def _keys(session: AsyncSession, caller: Caller, ids: Collection[str]) -> dict[str, str]:
    keys = await accounts.key_names(session, caller, _uuids(ids))
    persons = await people.names(session, _uuids(id_.removeprefix(_PERSON) for id_ in ids if id_.startswith(_PERSON)))
    return {str(id_): name for id_, name in keys.items()} | {f"{_PERSON}{id_}": name for id_, name in persons.items()}


def _uuids(ids: Iterable[str]) -> list[uuid.UUID]:
    return [uid for id_ in ids if (uid := parse_uuid(id_))]


def _row(names: queries.Names, counts: queries.Counts) -> UsageRow:
    requests, errors, prompt_tokens, completion_tokens, estimated = counts
    return UsageRow(
        day=names.get("day"),
        endpoint=names.get("endpoint"),
        model=names.get("model"),
        key=names.get("key"),
        requests=requests,
        errors=errors,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        estimated=estimated > 0,
    )
