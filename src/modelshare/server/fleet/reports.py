"""Writes agents' reports to the database, in batches.

If a batch fails, each item is tried alone, so that one that cannot be written does not block others; it is dropped with
a log line. During an outage of the database everything waits. Newer reports replace older ones, so an agent's pending
reports are limited by its number of deployments.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import outages
from modelshare.server.background import Loop
from modelshare.server.db import Database
from modelshare.server.fleet import presence
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.wire.agents import Phase
from modelshare.wire.link import Report

log = structlog.get_logger()
Value = TypeVar("Value")
Deployment = tuple[uuid.UUID, str]
"""(agent ID, deployment ID)"""
Write = Callable[[AsyncSession, Mapping[Deployment, Value]], Awaitable[None]]
_GATHER_SECONDS: Final = 0.5
"""How long reports are collected before they are written."""
_PAUSE_SECONDS: Final = 0.1
"""Between two batches, so that an agent whose phase flickers does not occupy the database."""
_STOP_SECONDS: Final = 1.0
"""How long the last batch may take."""
_GRADUAL: Final = frozenset({Phase.PULLING, Phase.VERIFYING, Phase.CONVERTING})


class Reports:
    def __init__(self, database: Database, clock: Callable[[], float], process: str | None = None) -> None:
        """`process`: the name of this one; None: it is not checked whether agents are connected to it."""
        self._apply = partial(presence.apply, process=process)
        self._database = database
        self._clock = clock
        self._reports: dict[Deployment, Report] = {}
        self._released: dict[Deployment, bool] = {}
        self._loop = Loop(
            "write what agents report",
            self.flush,
            every=_GATHER_SECONDS,
            rest=_PAUSE_SECONDS,
            is_idle=lambda: not self._reports and not self._released,
        )

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        """Writes pending reports, unless that takes too long."""
        await self._loop.stop(_STOP_SECONDS)
        last = asyncio.create_task(self.flush())
        await asyncio.wait([last], timeout=_STOP_SECONDS)
        last.cancel()

    def report(self, agent_id: uuid.UUID, report: Report) -> None:
        self._reports[agent_id, report.deployment_id] = report
        if report.phase in _GRADUAL:
            self._loop.resume()
        else:
            self._loop.wake()

    def released(self, agent_id: uuid.UUID, deployment_id: str) -> None:
        """An agent confirms that it deleted the weights of a deployment."""
        self._released[agent_id, deployment_id] = True
        self._loop.wake()

    def forget(self, agent_id: uuid.UUID) -> None:
        """Drops reports of an agent that disconnected; it reports everything again on its next connection."""
        for key in [key for key in self._reports if key[0] == agent_id]:
            del self._reports[key]

    async def flush(self) -> None:
        """Writes pending reports; keeps those that cannot be written now."""
        await self._write(self._reports, self._apply)
        await self._write(self._released, self._confirm)

    async def _write(self, waiting: dict[Deployment, Value], write: Write[Value]) -> None:
        batch = dict(waiting)
        for key in await self._done(batch, write):
            if waiting.get(key) is batch[key]:  # else there is a newer one, or the connection ended
                del waiting[key]

    async def _done(self, batch: Mapping[Deployment, Value], write: Write[Value]) -> Collection[Deployment]:
        """The items that need no further attempt: they are written, or cannot be written at all."""
        if not batch:
            return ()
        try:
            async with self._database.write() as session:
                await write(session, batch)
        except Exception as error:  # noqa: BLE001 - the next batch must still be tried
            if outages.outage_of(error) is not None:
                outages.report("cannot store reports of agents", error)
                return ()
            if len(batch) == 1:
                ((agent_id, deployment_id),) = batch
                log.warning(
                    "an agent's report is dropped: it cannot be stored",
                    agent=str(agent_id),
                    deployment=deployment_id,
                    error=str(error),
                )
                return batch.keys()
            return [key for item in batch.items() for key in await self._done(dict([item]), write)]
        return batch.keys()

    async def _confirm(self, session: AsyncSession, released: Mapping[Deployment, bool]) -> None:
        named = {(agent_id, uuid.UUID(deployment_id)) for agent_id, deployment_id in released}
        await weight_deletions.confirm(session, named, now=int(self._clock()))
