"""Background jobs for endpoints and their usage."""

import datetime as dt
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from modelshare.server.endpoints import queries, recalls
from modelshare.server.endpoints.deployment_stats import MAX_COST, MAX_COUNT
from modelshare.server.endpoints.policy import EndpointsPlatform
from modelshare.server.jobs import Handler

_DAYS_AT_ONCE: Final = 500
_ROWS_AT_ONCE: Final = 500
"""Per statement, below SQLite's limit of bound variables."""
_WRITER_SECONDS: Final = 7 * 24 * 3600
"""After this, no process still asks whether a batch of its counts was added."""


async def roll_up_usage(platform: EndpointsPlatform) -> None:
    """Adds up days that are old enough to months, a project's day at a time. Forgets processes that have ended.

    Only whole months: every day of a month is there, or none is.
    """
    kept = dt.timedelta(platform.settings.usage_daily_days)
    oldest = (dt.datetime.fromtimestamp(platform.now(), dt.UTC).date() - kept).replace(day=1).isoformat()
    async with platform.database.read() as session:
        days = await queries.days_before(session, oldest, _DAYS_AT_ONCE)
    for project_id, day in days:
        async with platform.database.write() as session:
            rows = await queries.take_day(session, project_id, day)
            month = sorted(({**row, "day": day.rpartition("-")[0]} for row in rows), key=_in_order)
            for offset in range(0, len(month), _ROWS_AT_ONCE):
                await queries.add_usage(session, month[offset : offset + _ROWS_AT_ONCE], MAX_COUNT, MAX_COST)
    async with platform.database.write() as session:
        await queries.forget_writers(session, platform.now() - _WRITER_SECONDS)


def _in_order(row: dict[str, Any]) -> tuple[str, ...]:
    """One order for all processes, so that they never wait for each other."""
    return str(row["endpoint_id"]), str(row["key_id"])


def handlers(platform: EndpointsPlatform) -> Mapping[str, Handler]:
    """The handlers of the endpoints' jobs, by kind."""
    return {recalls.STOP: partial(recalls.stop, platform)}
