"""What was used, by day, endpoint and key: counted in memory, added to the database every second."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from modelshare.server.db import Database
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.router.snapshots import Snapshot

log = structlog.get_logger()
_FLUSH_SECONDS: Final = 1.0
_BATCH: Final = 500
"""Rows of one statement, below SQLite's limit of variables."""
_COUNTS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "estimated")


class Usage(NamedTuple):
    """Tokens of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimate: bool = False
    """Nobody counted them."""


class _Key(NamedTuple):
    day: str
    endpoint_id: uuid.UUID
    key_id: uuid.UUID


@dataclass(slots=True)
class _Count:
    """What is not in the database yet."""

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
        self._task: asyncio.Task[None] | None = None

    def add(self, endpoint: Snapshot, key_id: uuid.UUID, usage: Usage, *, failed: bool) -> None:
        """Counts one request that was let in."""
        day = time.strftime("%Y-%m-%d", time.gmtime(self._clock()))
        key = _Key(day, endpoint.id, key_id)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(endpoint.project_id, endpoint.slug, endpoint.model_id)
        count.requests += 1
        count.errors += failed
        count.prompt_tokens += usage.prompt_tokens
        count.completion_tokens += usage.completion_tokens
        count.estimated += usage.is_estimate

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Writes what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def flush(self) -> None:
        """Adds what was counted to the database; what cannot be written is kept for the next time."""
        counts, self._counts = self._counts, {}
        # One order for all processes, so that two that flush at once never wait for each other.
        rows = [
            {**key._asdict(), **{name: getattr(count, name) for name in count.__slots__}}
            for key, count in sorted(counts.items(), key=lambda item: item[0])
        ]
        try:
            for offset in range(0, len(rows), _BATCH):
                async with self._database.write() as session:
                    await session.execute(self._upsert(rows[offset : offset + _BATCH]))
                for row in rows[offset : offset + _BATCH]:
                    del counts[_Key(row["day"], row["endpoint_id"], row["key_id"])]
        finally:
            for key, count in counts.items():
                self._give_back(key, count)

    def _upsert(self, rows: list[dict[str, Any]]) -> Any:
        insert = sqlite_insert if self._database.is_sqlite else postgres_insert
        statement = insert(UsageRow).values(rows)
        return statement.on_conflict_do_update(
            index_elements=list(_Key._fields),
            set_={name: getattr(UsageRow, name) + getattr(statement.excluded, name) for name in _COUNTS},
        )

    def _give_back(self, key: _Key, count: _Count) -> None:
        newer = self._counts.setdefault(key, count)
        if newer is not count:
            for name in _COUNTS:
                setattr(newer, name, getattr(newer, name) + getattr(count, name))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - the database may be away for a while; nothing is lost
                log.warning("cannot write usage", error=str(error))
