"""The job that delivers to a webhook.

One job per webhook, not per delivery: a slow or dead address occupies only one slot of the worker, however many
deliveries it has, and other tenants' webhooks have the rest. Adding deliveries, enqueueing the job and ending it
require the webhook's lock, so that no delivery is missed.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM, Audit
from modelshare.server.audit.webhooks import queries, rules
from modelshare.server.audit.webhooks.sending import Message, Outcome, Sender
from modelshare.server.audit.webhooks.tables import DeliveryRow, WebhookRow
from modelshare.server.db import Database
from modelshare.server.jobs import Lease, TryAgainError, finish, lease_is_valid, postpone
from modelshare.wire.backoff import Uniform
from modelshare.wire.webhooks import DeliveryState

log = structlog.get_logger()

DELIVER: Final = "webhook.deliver"
"""The job's kind; its subject is the webhook's ID."""
PARALLEL: Final = 64
"""Concurrent webhooks per process; they mostly wait for responses."""
_AT_ONCE: Final = 8
"""Concurrent deliveries per webhook; one while its address fails."""
_SLOT_SECONDS: Final = 10.0
"""After this long, the job gives its slot to waiting ones: an address may be slow on purpose."""
_AFTER_TROUBLE_SECONDS: Final = 10
_UNIFORM: Final = random.SystemRandom().uniform
"""Seeded by the system, so that processes started at the same time do not retry at the same times."""


class Deliverer:
    """Handles the job in one process."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        platform_secret: bytes,
        clock: Callable[[], float],
        *,
        uniform: Uniform = _UNIFORM,
    ) -> None:
        self._database = database
        self._sender = sender
        self._platform_secret = platform_secret
        self._clock = clock
        self._uniform = uniform

    async def deliver(self, lease: Lease) -> None:
        """Sends all deliveries that are due. This job never fails: failures are stored with the delivery."""
        outcomes: Sequence[Outcome] = ()
        end = time.monotonic() + _SLOT_SECONDS
        try:
            while time.monotonic() < end:
                messages = await self._advance(lease, outcomes)
                if not messages:
                    return
                outcomes = await asyncio.gather(*map(self._sender.send, messages))
            if not await self._advance(lease, outcomes):
                return
        except Exception as error:
            log.warning("cannot deliver to a webhook", webhook=lease.subject, exc_info=error)
            raise TryAgainError(_AFTER_TROUBLE_SECONDS) from error
        raise TryAgainError(0)

    async def _advance(self, lease: Lease, outcomes: Sequence[Outcome]) -> list[Message]:
        """Stores the outcomes, and returns what to send next. If that is nothing, finishes or postpones the job."""
        now = int(self._clock())
        webhook_id = uuid.UUID(lease.subject)
        async with self._database.write() as session:
            webhook = await queries.lock_webhook(session, webhook_id)
            if not await lease_is_valid(session, lease):
                return []  # the lease has expired, and another worker has the job
            if webhook is None:
                await finish(session, lease)
                return []
            if outcomes:
                await self._apply(session, webhook, outcomes, now)
            at_once = 1 if webhook.failures else _AT_ONCE
            rows = await queries.pending(session, webhook.id, at_once) if webhook.is_active else []
            if not rows:
                await finish(session, lease)
                return []
            start = max(rows[0].next_attempt_at or 0, webhook.retry_at or 0)
            if start > now:
                await postpone(session, lease, start)
                return []
            return [self._message(webhook, row, now) for row in rows if (row.next_attempt_at or 0) <= now]

    async def _apply(self, session: AsyncSession, webhook: WebhookRow, outcomes: Sequence[Outcome], now: int) -> None:
        rows = await queries.deliveries_by_id(session, [outcome.delivery_id for outcome in outcomes])
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        if len(errors) < len(outcomes):
            webhook.failures, webhook.retry_at = 0, None
        else:
            webhook.failures += 1
            webhook.retry_at = now + rules.pause(webhook.failures, self._uniform)
        for outcome in outcomes:
            row = rows.get(outcome.delivery_id)
            if row is not None:
                self._conclude(row, outcome, webhook, now)
        if any(outcome.is_gone for outcome in outcomes) and webhook.is_active:
            _deactivate(session, webhook, now)
        if webhook.failures:
            await session.flush()
            await queries.give_up_older(session, webhook.id, now - rules.GIVE_UP_SECONDS, errors[-1])

    def _conclude(self, row: DeliveryRow, outcome: Outcome, webhook: WebhookRow, now: int) -> None:
        row.attempts += 1
        row.attempted_at, row.status, row.error, row.next_attempt_at = now, outcome.status, outcome.error, None
        if outcome.error is None:
            row.state = DeliveryState.DELIVERED
        elif outcome.is_gone or rules.is_given_up(row.attempts, age=now - row.created_at):
            row.state = DeliveryState.FAILED
        else:
            delayed = now + rules.retry_delay(row.attempts, self._uniform)
            row.next_attempt_at = max(delayed, webhook.retry_at or 0)

    def _message(self, webhook: WebhookRow, row: DeliveryRow, now: int) -> Message:
        numbers = [webhook.secret_number]
        if now < (webhook.old_secret_until or 0):
            numbers.append(webhook.secret_number - 1)
        return Message(
            delivery_id=row.id,
            event_id=row.event_id,
            body=row.body,
            url=webhook.url,
            keys=[rules.signing_key(self._platform_secret, webhook.id, number) for number in numbers],
        )


def _deactivate(session: AsyncSession, webhook: WebhookRow, now: int) -> None:
    webhook.is_active = False
    Audit(session, webhook.project_id, SYSTEM, now).done(
        "webhook.deactivate", f"webhook:{webhook.id}", "Its address answered 410 Gone.", url=webhook.url
    )
