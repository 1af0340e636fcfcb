"""A project's usage as a file: CSV or JSON, row by row, in bounded memory."""

import csv
import io
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import people
from modelshare.server.accounts import service as accounts
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.http import Caller, Platform
from modelshare.server.registry import service as registry
from modelshare.server.router import queries
from modelshare.server.router.usage import PERSON, Days, cost_of

_PAGE: Final = 1000
"""Rows that are read at once, in a transaction of their own: a slow reader holds none open."""
_NAMES: Final = ("day", "endpoint", "model", "model_name", "version", "tier", "key", "key_name")
_NUMBERS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "estimated_requests")
HEADER: Final = (*_NAMES, *_NUMBERS, "cost")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet evaluates a cell that begins with one of these."""
Exported = dict[str, Any]


async def as_csv(platform: Platform, caller: Caller, days: Days) -> AsyncIterator[str]:
    """RFC 4180, with a header."""
    yield _lines([HEADER])
    async for rows in _pages(platform, caller, days):
        yield _lines([[_cell(row[name]) for name in HEADER] for row in rows])


async def as_json(platform: Platform, caller: Caller, days: Days) -> AsyncIterator[str]:
    """An array of objects, one on each line."""
    start = "["
    async for rows in _pages(platform, caller, days):
        for row in rows:
            yield f"{start}\n{json.dumps(row | {'cost': float(row['cost'])}, ensure_ascii=False)}"
            start = ","
    yield f"{'' if start == ',' else start}\n]\n"


async def _pages(platform: Platform, caller: Caller, days: Days) -> AsyncIterator[list[Exported]]:
    first, last = (day.isoformat() for day in days)
    after: queries.UsageKey | None = None
    while True:
        async with platform.database.read() as session:
            found = await queries.usage_rows(session, caller.project, (first, last), after=after, limit=_PAGE)
            rows = await _named(session, caller, found)
        yield rows
        if len(found) < _PAGE:
            return
        row = found[-1][0]
        after = row.day, row.endpoint_id, row.key_id


async def _named(session: AsyncSession, caller: Caller, found: Sequence[tuple[UsageRow, str]]) -> list[Exported]:
    key_ids = {row.key_id for row, _ in found}
    models = await registry.served_names(session, {row.model_id for row, _ in found if row.model_id})
    keys, persons = await accounts.key_names(session, caller, key_ids), await people.names(session, key_ids)
    return [
        {
            "day": row.day,
            "endpoint": endpoint,
            "model": None if row.model_id is None else str(row.model_id),
            "model_name": None if row.model_id is None else models.get(row.model_id),
            "version": row.version or None,
            "tier": row.tier or None,
            "key": f"{PERSON}{row.key_id}" if row.key_id in persons else str(row.key_id),
            "key_name": _name(row.key_id, keys, persons),
            "requests": row.requests,
            "errors": row.errors,
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "estimated_requests": row.estimated,
            "cost": cost_of(row.cost_micros, row.cost_rest),
        }
        for row, endpoint in found
    ]


def _name(key_id: uuid.UUID, *named: dict[uuid.UUID, str]) -> str | None:
    return next((names[key_id] for names in named if key_id in names), None)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
