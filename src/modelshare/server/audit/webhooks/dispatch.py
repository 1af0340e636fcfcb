"""From the outbox to deliveries: each process moves what it finds, and no two take the same event."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import outages
from modelshare.server.audit.service import OUTBOX_TOPIC
from modelshare.server.audit.webhooks import queries, rules
from modelshare.server.audit.webhooks.jobs import DELIVER
from modelshare.server.audit.webhooks.tables import DeliveryRow, WebhookRow
from modelshare.server.db import Database
from modelshare.server.jobs import ensure
from modelshare.wire.webhooks import DeliveryState

log = structlog.get_logger()

_ROUND_SECONDS: Final = 5.0
"""How often without having been told."""
_REST_SECONDS: Final = 0.03
"""After moving some: what comes meanwhile is moved together, and the other processes get their turn."""
_BATCH: Final = 200
"""Events of one transaction."""


class Dispatcher:
    """Moves the events of one process's rounds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        database.subscribe(OUTBOX_TOPIC, lambda _: self._wake.set())

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def move(self) -> bool:
        """Moves all there is; whether there was any.

        Killed at any moment, an event is in the outbox or has its deliveries, never neither.
        """
        async with self._database.read() as session:
            any_there = more = await queries.has_events(session)
        while more:
            async with self._database.write() as session:
                more = await _move_some(session, int(self._clock())) == _BATCH
        return any_there

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if await self.move():
                    await asyncio.sleep(_REST_SECONDS)
            except Exception as error:  # noqa: BLE001 - the next round may find the database back
                outages.report("cannot move events from the outbox", error)
            # Not asyncio.wait_for: until Python 3.12 it may swallow a cancellation, and this would never stop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_SECONDS):
                    await self._wake.wait()


async def _move_some(session: AsyncSession, now: int) -> int:
    """Writes the deliveries of some events; how many events these were."""
    events = await queries.take_events(session, _BATCH)
    webhooks = await queries.lock_active(session, {event.project_id for event in events})
    wanted: set[WebhookRow] = set()
    for event in events:
        hearing = [
            webhook
            for webhook in webhooks
            if webhook.project_id == event.project_id and rules.hears_of(webhook.events, event.type)
        ]
        wanted.update(hearing)
        body = rules.body(event.id, event.type, created=event.at, project_id=event.project_id, data=event.data)
        session.add_all(
            DeliveryRow(
                webhook_id=webhook.id,
                event_id=event.id,
                type=event.type,
                body=body,
                state=DeliveryState.PENDING,
                created_at=now,
                next_attempt_at=now,
            )
            for webhook in hearing
        )
    await session.flush()
    await queries.delete_events(session, [event.id for event in events])
    await ask_for(session, wanted, now)
    return len(events)


async def ask_for(session: AsyncSession, webhooks: set[WebhookRow], now: int) -> None:
    """Has the deliveries of these webhooks, which are locked, sent; one whose address failed goes on waiting."""
    subjects: dict[bool, list[str]] = {True: [], False: []}
    for webhook in webhooks:
        subjects[webhook.retry_at is None or webhook.retry_at <= now].append(str(webhook.id))
    for hurry, ids in subjects.items():
        await ensure(session, DELIVER, sorted(ids), now=now, hurry=hurry)
