"""Counts requests and tokens by day, endpoint and key in memory, and adds them to the database every second."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from modelshare.server.background import Loop
from modelshare.server.db import Database
from modelshare.server.endpoints import deployment_stats
from modelshare.server.outages import outage_of
from modelshare.server.router.snapshots import Snapshot

log = structlog.get_logger()
_DAY_SECONDS: Final = 86_400
_FLUSH_SECONDS: Final = 1.0
_BATCH: Final = 500
"""Rows per statement, below SQLite's limit of bound variables."""
_MAX: Final = 2**48
"""Upper bound of a row's counts, so that sums over any number of rows fit into 64 bits."""
_MAX_KEPT: Final = 200_000
"""Maximum rows kept during an outage of the database."""
_COUNTS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "estimated")


class MeteredUsage(NamedTuple):
    """Tokens of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimate: bool = False
    """The engine gave no usable count."""


class _Key(NamedTuple):
    day: str
    endpoint_id: uuid.UUID
    key_id: uuid.UUID


@dataclass(slots=True)
class _Count:
    """Counts that are not in the database yet."""

    project_id: str
    endpoint_slug: str
    model_id: uuid.UUID | None
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0


class Meter:
    """Counts of one process."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._counts: dict[_Key, _Count] = {}
        self._today = 0, ""
        """The number of the day since 1970, and its name."""
        self._loop = Loop("write usage", self.flush, every=_FLUSH_SECONDS)

    def add(self, endpoint: Snapshot, key_id: uuid.UUID, usage: MeteredUsage, *, failed: bool) -> None:
        """Counts one request that was let in."""
        key = _Key(self._day(), endpoint.id, key_id)
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= _MAX_KEPT:
                log.error("usage is dropped: too many records are waiting for the database", endpoint=str(endpoint.id))
                return
            count = self._counts[key] = _Count(endpoint.project_id, endpoint.slug, endpoint.model_id)
        count.requests += 1
        count.errors += failed
        count.prompt_tokens = min(_MAX, count.prompt_tokens + usage.prompt_tokens)
        count.completion_tokens = min(_MAX, count.completion_tokens + usage.completion_tokens)
        count.estimated += usage.is_estimate

    def _day(self) -> str:
        number = int(self._clock() // _DAY_SECONDS)
        if number != self._today[0]:
            self._today = number, time.strftime("%Y-%m-%d", time.gmtime(number * _DAY_SECONDS))
        return self._today[1]

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        """Writes what is left, once: what cannot be written then is told of."""
        await self._loop.stop()
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001 - the process ends, whatever the database does
            requests = sum(count.requests for count in self._counts.values())
            log.error("usage is lost: it could not be stored", requests=requests, error=str(error))  # noqa: TRY400 - with what is lost

    async def flush(self) -> None:
        """Adds what was counted to the database. While that cannot be asked, everything is kept for the next time.

        What it refuses is dropped, by itself: one row that can never be written holds up no other.
        """
        counts, self._counts = self._counts, {}
        # One order for all processes, so that two that flush at once never wait for each other.
        keys = sorted(counts)
        try:
            for offset in range(0, len(keys), _BATCH):
                await self._write(counts, keys[offset : offset + _BATCH])
        finally:
            for key, count in counts.items():
                self._give_back(key, count)

    async def _write(self, counts: dict[_Key, _Count], keys: list[_Key]) -> None:
        """Takes out of `counts` what is written, or never can be."""
        rows = [_row(key, counts[key]) for key in keys]
        try:
            await self._add(rows)
        except Exception as error:
            if outage_of(error) is not None:
                raise
            if len(keys) > 1:
                for key in keys:
                    await self._write(counts, [key])
                return
            log.error("usage is dropped: the database rejects it", **rows[0], error=str(error))  # noqa: TRY400 - with what is dropped
        for key in keys:
            del counts[key]

    async def _add(self, rows: list[dict[str, Any]]) -> None:
        async with self._database.write() as session:
            await deployment_stats.add_usage(session, rows, limit=_MAX)

    def _give_back(self, key: _Key, count: _Count) -> None:
        newer = self._counts.setdefault(key, count)
        if newer is not count:
            for name in _COUNTS:
                setattr(newer, name, min(_MAX, getattr(newer, name) + getattr(count, name)))


def _row(key: _Key, count: _Count) -> dict[str, Any]:
    return {**key._asdict(), **{name: getattr(count, name) for name in count.__slots__}}
