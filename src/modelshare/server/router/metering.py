"""Counts requests, tokens and costs in memory, and adds them to the database as they come, at most four times a second.

What a killed process had not written is lost: the requests that ended while the last write was on its way or less than
`_REST_SECONDS` after it. Nothing is counted twice: see `_Batch`.
"""

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import msgspec
import structlog

from modelshare.server.background import Loop
from modelshare.server.db import Database
from modelshare.server.endpoints import deployment_stats
from modelshare.server.endpoints.deployment_stats import MAX_COST, MAX_COUNT, usage_id
from modelshare.server.outages import outage_of
from modelshare.server.router.snapshots import Snapshot
from modelshare.wire.tiers import PRICE_SCALE

log = structlog.get_logger()
_DAY_SECONDS: Final = 86_400
_REST_SECONDS: Final = 0.25
"""From the end of one write to the start of the next."""
_RETRY_SECONDS: Final = 1.0
_BATCH: Final = 500
"""Rows per statement, below SQLite's limit of bound variables."""
_MAX_KEPT: Final = 200_000
"""Maximum rows kept during an outage of the database."""
_COUNTS: Final = ("requests", "errors", "prompt_tokens", "completion_tokens", "estimated")


class MeteredUsage(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_estimate: bool = False
    """The engine gave no usable count."""
    version: str = ""
    """Of the model; empty if no machine was asked."""


_Key = tuple[str, int, int, str, str]
"""The day, the IDs of the endpoint and the key as numbers, which are faster to look up, the tier and the version."""


@dataclass(slots=True)
class _Count:
    """Counts that are not in the database yet."""

    project_id: str
    endpoint_slug: str
    model_id: uuid.UUID | None
    token_price: int
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0

    def row(self, key: _Key) -> dict[str, Any]:
        micros, rest = divmod((self.prompt_tokens + self.completion_tokens) * self.token_price, PRICE_SCALE)
        costs = {"cost_micros": min(MAX_COST, micros), "cost_rest": rest}
        stored = {name: getattr(self, name) for name in self.__slots__ if name != "token_price"}
        day, endpoint, key_id, tier, version = key
        endpoint_id = uuid.UUID(int=endpoint)
        ids = {"endpoint_id": usage_id(endpoint_id, tier, version), "of_endpoint_id": endpoint_id}
        columns = {"day": day, "key_id": uuid.UUID(int=key_id), "tier": tier, "version": version}
        return {**columns, **ids, **stored, **costs}


@dataclass(slots=True)
class _Batch:
    """Counts that are added in one transaction, which also notes the number.

    If it is unknown whether that was committed, the same batch is sent again under its number until it is known.
    """

    number: int
    counts: dict[_Key, _Count]
    is_sent: bool = False
    """Whether it may be stored: its commit was requested."""


class Meter:
    """Counts of one process."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._counts: dict[_Key, _Count] = {}
        self._today = 0, ""
        """The number of the day since 1970, and its name."""
        self._writer = uuid.uuid4()
        self._numbers = count(1)
        self._unconfirmed: _Batch | None = None
        self._loop = Loop("write usage", self.flush, rest=_REST_SECONDS, retry=_RETRY_SECONDS)

    def add(self, endpoint: Snapshot, key_id: uuid.UUID, usage: MeteredUsage, *, failed: bool) -> None:
        """Counts one request that was let in."""
        tier = endpoint.tier
        key = self._day(), endpoint.id.int, key_id.int, tier.slug, usage.version
        counted = self._counts.get(key)
        if counted is None:
            if len(self._counts) >= _MAX_KEPT:
                log.error("usage is dropped: too many records are waiting for the database", endpoint=str(endpoint.id))
                return
            counted = _Count(endpoint.project_id, endpoint.slug, endpoint.model_id, tier.token_price)
            self._counts[key] = counted
            self._loop.wake()  # by the first request of a count: later ones are written with it
        counted.requests += 1
        counted.errors += failed
        counted.prompt_tokens = min(MAX_COUNT, counted.prompt_tokens + usage.prompt_tokens)
        counted.completion_tokens = min(MAX_COUNT, counted.completion_tokens + usage.completion_tokens)
        counted.estimated += usage.is_estimate

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
            left = [self._counts, self._unconfirmed.counts if self._unconfirmed else {}]
            requests = sum(counted.requests for counts in left for counted in counts.values())
            log.error("usage is lost: it could not be stored", requests=requests, error=str(error))  # noqa: TRY400 - with what is lost

    async def flush(self) -> None:
        """Adds what was counted to the database. While that cannot be asked, everything is kept for the next time.

        What it refuses is dropped, by itself: one row that can never be written holds up no other.
        """
        if (unconfirmed := self._unconfirmed) is not None:
            await self._write_all(dict(unconfirmed.counts), [unconfirmed])
        counts, self._counts = self._counts, {}
        # One order for all processes, so that two that flush at once never wait for each other.
        keys = sorted(counts)
        parts = (keys[offset : offset + _BATCH] for offset in range(0, len(keys), _BATCH))
        await self._write_all(counts, (self._batch(counts, part) for part in parts))

    async def _write_all(self, waiting: dict[_Key, _Count], batches: Iterable[_Batch]) -> None:
        try:
            for batch in batches:
                await self._write(batch, waiting)
        finally:
            for key, counted in waiting.items():
                self._give_back(key, counted)

    async def _write(self, batch: _Batch, waiting: dict[_Key, _Count]) -> None:
        """Takes out of `waiting` what is stored, may be stored, or never can be."""
        try:
            await self._send(batch, waiting)
        except Exception as error:
            if outage_of(error) is not None:
                raise
            self._unconfirmed = None  # the database has answered: it is not stored
            if len(batch.counts) > 1:
                for key in batch.counts:
                    await self._write(self._batch(batch.counts, [key]), waiting)
                return
            ((key, counted),) = batch.counts.items()
            log.error("usage is dropped: the database rejects it", **counted.row(key), error=str(error))  # noqa: TRY400 - with what is dropped
        for key in batch.counts:
            waiting.pop(key, None)

    async def _send(self, batch: _Batch, waiting: dict[_Key, _Count]) -> None:
        rows = [counted.row(key) for key, counted in batch.counts.items()]
        try:
            async with self._database.write() as session:
                await deployment_stats.add_usage(
                    session, rows, writer=self._writer, batch=batch.number, now=int(self._clock())
                )
                batch.is_sent = True
        except BaseException:  # a cancellation as well: it does not undo a commit
            if batch.is_sent:
                self._unconfirmed = batch
                for key in batch.counts:
                    waiting.pop(key, None)
            raise
        self._unconfirmed = None

    def _batch(self, counts: dict[_Key, _Count], keys: Iterable[_Key]) -> _Batch:
        return _Batch(next(self._numbers), {key: counts[key] for key in keys})

    def _give_back(self, key: _Key, counted: _Count) -> None:
        newer = self._counts.setdefault(key, counted)
        if newer is not counted:
            for name in _COUNTS:
                setattr(newer, name, min(MAX_COUNT, getattr(newer, name) + getattr(counted, name)))
