"""Each process confirms in the audit log when it has dropped cached data from before a change.

The transaction of such a change notifies of its audit entry last (`db.CONFIRM_TOPIC`). A process that receives this has
received all notifications before it; it waits until the cached data is dropped, and writes a confirmation. Changes
whose notification was lost are found in the audit log, immediately after a lost connection or at the next heartbeat;
the process then drops all cached data, and confirms.
"""

import asyncio
import secrets
import uuid
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare import __version__
from modelshare.server.audit.propagation import queries
from modelshare.server.audit.tables import ProcessRow
from modelshare.server.background import Loop, stop_all
from modelshare.server.db import CONFIRM_TOPIC, Database, notify
from modelshare.server.paging import Paging
from modelshare.wire.base import Page
from modelshare.wire.usage import Process

log = structlog.get_logger()

PROCESSES_TOPIC: Final = "processes"
"""A process started, is about to stop, or is gone; the subject is the name of one that knows."""
_REST_SECONDS: Final = 0.05
"""Pause after confirming, so that changes in the meantime are confirmed together."""
_BEAT_SECONDS: Final = 3.0
_DEAD_MS: Final = 30_000
"""A process that was not seen for this long is dead."""
_OVERDUE_MS: Final = 2_000
"""After this long, a notification must have been lost. Cached data has expired by then anyway."""
_LATE_SECONDS: Final = 60.0
"""Maximum time of a transaction, from a change until others see it."""


class PropagationTracker:
    """Confirms changes for one process, and keeps it in the list of running processes."""

    def __init__(self, database: Database, *, address: str) -> None:
        """`address`: this process's URL for other processes, which is unique."""
        self.name = f"p-{secrets.token_hex(4)}"
        self.is_leaving = False
        """Whether this process is about to stop."""
        self._database = database
        self._address = address
        self._started_ms = 0
        self._heard = set[uuid.UUID]()
        self._may_have_missed = False
        self._caught_up = 0.0
        """When missed changes were last looked up, in seconds of the loop's clock."""
        self._confirming = Loop("confirm changes", self._confirm, rest=_REST_SECONDS, retry=_BEAT_SECONDS)
        self._beating = Loop("say that this process runs", self._beat, every=database.look_every(_BEAT_SECONDS))
        database.subscribe(CONFIRM_TOPIC, self._told)

    async def start(self) -> None:
        """Call it when notifications are received, and before the first request."""
        async with self._database.write() as session:
            await queries.forget_place(session, self._address)
            self._started_ms = await queries.see(session, self.name, self._address, __version__, None)
            notify(session, PROCESSES_TOPIC, self.name)
        self._caught_up = asyncio.get_running_loop().time()
        await self._confirming.start()
        await self._beating.start()

    async def stop(self) -> None:
        """Removes this process from the list; call it when no more requests arrive."""
        await stop_all([self._confirming, self._beating])
        try:
            async with self._database.write() as session:
                await queries.forget(session, self.name)
                notify(session, PROCESSES_TOPIC, self.name)
        except Exception as error:  # noqa: BLE001 - other processes remove it after a while
            log.warning("cannot unregister this process", error=str(error))

    async def leave(self) -> None:
        """Records that this process is about to stop. It still confirms changes until then."""
        self.is_leaving = True
        async with self._database.write() as session:
            await queries.leave(session, self.name)
            notify(session, PROCESSES_TOPIC, self.name)

    async def check(self) -> None:
        """Makes a write without effect, to raise an error if the database cannot be written to."""
        async with self._database.write() as session:
            await queries.see(session, self.name, self._address, __version__, self._started_ms)

    def _told(self, subject: str) -> None:
        if subject == "*":
            self._may_have_missed = True
            self._beating.wake()
        else:
            self._heard.add(uuid.UUID(subject))
            self._confirming.wake()

    async def _confirm(self) -> None:
        heard, self._heard = self._heard, set()
        try:
            await self._database.dropped()
            async with self._database.write() as session:
                await queries.confirm(session, self.name, heard)
        except Exception:
            self._heard |= heard
            raise

    async def _beat(self) -> None:
        overdue_ms = 0 if self._may_have_missed else _OVERDUE_MS
        self._may_have_missed = False
        async with self._database.write() as session:
            # In this order, since locking its own row before others' could deadlock with another process.
            if await queries.forget_dead(session, _DEAD_MS):
                notify(session, PROCESSES_TOPIC, self.name)
            await queries.see(session, self.name, self._address, __version__, self._started_ms)
        await self._catch_up(overdue_ms)

    async def _catch_up(self, overdue_ms: int) -> None:
        now = asyncio.get_running_loop().time()
        since_ms = int((now - self._caught_up + _LATE_SECONDS) * 1000)
        async with self._database.read() as session:
            owed = await queries.owed(
                session, self.name, started_ms=self._started_ms, since_ms=since_ms, overdue_ms=overdue_ms
            )
        if owed:
            # Only now: earlier, data from before the change could have been cached again.
            self._database.drop_everything()
            self._heard.update(owed)
            self._confirming.wake()
        self._caught_up = now


async def running(session: AsyncSession, limit: int) -> list[str]:
    """Names of the processes that are not about to stop, oldest first."""
    return await queries.running(session, limit)


async def page(session: AsyncSession, paging: Paging) -> Page[Process]:
    """The running processes, oldest first."""
    rows = await queries.processes(session, paging.fetch_limit, paging.after_row(int, str))
    rows, cursor = paging.cut(rows, lambda row: (row.started_ms, row.name))
    return Page.of([_view(row) for row in rows], cursor)


def _view(row: ProcessRow) -> Process:
    return Process(
        name=row.name,
        address=row.address,
        version=row.version,
        started_at=row.started_ms // 1000,
        seen_at=row.seen_ms // 1000,
    )
