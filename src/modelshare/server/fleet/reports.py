"""What agents linked to this process said of their deployments, on its way into the database.

It is written in batches. An item that cannot be written keeps no other from it: when a batch fails, each item is tried
alone, and what fails for a reason of its own is dropped, with a line in the log. While the database is away everything
waits; newer reports replace older ones, so that no agent has more of them than it has deployments.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import outages
from modelshare.server.db import Database
from modelshare.server.fleet import presence, weight_deletions
from modelshare.wire.agents import Phase
from modelshare.wire.link import Report

log = structlog.get_logger()
Value = TypeVar("Value")
Deployment = tuple[uuid.UUID, str]
"""An agent and the id of its deployment."""
Write = Callable[[AsyncSession, Mapping[Deployment, Value]], Awaitable[None]]
_GATHER_SECONDS: Final = 0.5
"""The longest that reports gather before they are written."""
_PAUSE_SECONDS: Final = 0.1
"""Between two batches, so that an agent whose phase flickers leaves the database to others."""
_STOP_SECONDS: Final = 1.0
"""What is left may take to be written in the end."""
_GRADUAL: Final = frozenset({Phase.PULLING, Phase.VERIFYING, Phase.CONVERTING})


class Reports:
    """Of one process."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._reports: dict[Deployment, Report] = {}
        self._released: dict[Deployment, bool] = {}
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Writes what is left, unless that takes long."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)
        last = asyncio.create_task(self.flush())
        await asyncio.wait([last], timeout=_STOP_SECONDS)
        last.cancel()

    def report(self, agent_id: uuid.UUID, report: Report) -> None:
        """An agent says how one of its deployments stands."""
        self._reports[agent_id, report.deployment_id] = report
        if report.phase not in _GRADUAL:
            self._urgent.set()

    def released(self, agent_id: uuid.UUID, deployment_id: str) -> None:
        """An agent says that it deleted the weights of a deployment that it was told to let go of."""
        self._released[agent_id, deployment_id] = True
        self._urgent.set()

    def forget(self, agent_id: uuid.UUID) -> None:
        """Its link ended: how its deployments stand, it says again on the next one."""
        for key in [key for key in self._reports if key[0] == agent_id]:
            del self._reports[key]

    async def flush(self) -> None:
        """Writes what was said; what cannot be written now stays."""
        await self._write(self._reports, presence.apply)
        await self._write(self._released, self._confirm)

    async def _run(self) -> None:
        while True:
            # Not asyncio.wait_for: until Python 3.12 it may swallow a cancellation, and this would never stop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_SECONDS):
                    await self._urgent.wait()
            self._urgent.clear()
            await self.flush()
            await asyncio.sleep(_GATHER_SECONDS if self._reports or self._released else _PAUSE_SECONDS)

    async def _write(self, waiting: dict[Deployment, Value], write: Write[Value]) -> None:
        batch = dict(waiting)
        for key in await self._done(batch, write):
            if waiting.get(key) is batch[key]:  # else there is newer, or the link ended
                del waiting[key]

    async def _done(self, batch: Mapping[Deployment, Value], write: Write[Value]) -> Collection[Deployment]:
        """Which of them need no further attempt: they are written, or never will be."""
        if not batch:
            return ()
        try:
            async with self._database.write() as session:
                await write(session, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next batch is tried
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
