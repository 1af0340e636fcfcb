"""Moves events from the outbox to deliveries. Several processes may run it; each event is moved by one of them."""

from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import OUTBOX_TOPIC
from modelshare.server.audit.tables import OutboxRow
from modelshare.server.audit.webhooks import queries, rules
from modelshare.server.audit.webhooks.jobs import DELIVER
from modelshare.server.audit.webhooks.tables import DeliveryRow, WebhookRow
from modelshare.server.background import Loop
from modelshare.server.db import Database
from modelshare.server.jobs import enqueue_if_absent
from modelshare.server.outages import outage_of
from modelshare.wire.webhooks import DeliveryState

log = structlog.get_logger()

_ROUND_SECONDS: Final = 5.0
"""Between rounds, unless there is a notification."""
_REST_SECONDS: Final = 0.03
"""Pause after a batch, so that new events are moved together, and other processes get their turn."""
_RETRY_SECONDS: Final = 2.0
_BATCH: Final = 200
"""Events per transaction."""


class Dispatcher:
    """Moves events in one process."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        every = database.look_every(_ROUND_SECONDS)
        self.loop = Loop(
            "move events from the outbox", self.move, every=every, rest=_REST_SECONDS, retry=_RETRY_SECONDS
        )
        self.loop.wake()
        database.subscribe(OUTBOX_TOPIC, self.loop.wake)

    async def move(self) -> None:
        """Moves all events.

        If the process is killed, an event is still in the outbox or has its deliveries.
        """
        async with self._database.read() as session:
            more = await queries.has_events(session)
        while more:
            try:
                more = await self._move_some(_BATCH) == _BATCH
            except Exception as error:
                if outage_of(error) is not None:
                    raise
                more = await self._move_each_alone()

    async def _move_some(self, limit: int, taken: list[OutboxRow] | None = None) -> int:
        async with self._database.write() as session:
            return await _move_some(session, int(self._clock()), limit, taken)

    async def _move_each_alone(self) -> bool:
        """Moves a batch one by one, dropping events that cannot be moved. Returns whether there may be more."""
        for _ in range(_BATCH):
            taken: list[OutboxRow] = []
            try:
                if not await self._move_some(1, taken):
                    return False
            except Exception as error:
                if outage_of(error) is not None or not taken:
                    raise
                (event,) = taken
                context = {"event_id": str(event.id), "type": event.type, "project": event.project_id}
                log.error("an event is dropped: it cannot be delivered", **context, exc_info=error)  # noqa: TRY400 - with what is dropped
                async with self._database.write() as session:
                    await queries.delete_events(session, [event.id])
        return True


async def _move_some(session: AsyncSession, now: int, limit: int, taken: list[OutboxRow] | None) -> int:
    """Writes the deliveries of up to `limit` events, and returns their number. Adds the events to `taken`."""
    events = await queries.take_events(session, limit)
    if taken is not None:
        session.expunge_all()
        taken.extend(events)
    webhooks = await queries.lock_active(session, {event.project_id for event in events})
    wanted: set[WebhookRow] = set()
    for event in events:
        hearing = [
            webhook
            for webhook in webhooks
            if webhook.project_id == event.project_id and rules.matches_event(webhook.events, event.type)
        ]
        wanted.update(hearing)
        body = rules.body(event.id, event.type, at=event.at, project_id=event.project_id, data=event.data)
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
    """Enqueues the jobs of these webhooks, which must be locked. One whose address failed keeps waiting."""
    subjects: dict[bool, list[str]] = {True: [], False: []}
    for webhook in webhooks:
        subjects[webhook.retry_at is None or webhook.retry_at <= now].append(str(webhook.id))
    for run_now, ids in subjects.items():
        await enqueue_if_absent(session, DELIVER, sorted(ids), now=now, run_now=run_now)
