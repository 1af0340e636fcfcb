"""Webhooks of a project, and their deliveries."""

import uuid
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.audit.webhooks import queries, rules
from modelshare.server.audit.webhooks.dispatch import ask_for
from modelshare.server.audit.webhooks.tables import DeliveryRow, WebhookRow
from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.ids import new_id, parse_uuid
from modelshare.server.paging import Paging
from modelshare.server.settings import Settings
from modelshare.wire.base import Page
from modelshare.wire.webhooks import (
    TEST_EVENT,
    Delivery,
    DeliveryState,
    DeliveryWithBody,
    Webhook,
    WebhookCreate,
    WebhookPatch,
    WebhookWithSecret,
)

_MAX_FORGOTTEN: Final = 1000
"""Old deliveries deleted per transaction."""


class Backlog(NamedTuple):
    """Pending work for webhooks."""

    events: int
    """Events in the outbox."""
    failing: int
    """Webhooks whose last attempt failed, so that deliveries wait."""


async def create(
    session: AsyncSession, caller: Caller, spec: WebhookCreate, settings: Settings, *, now: int
) -> WebhookWithSecret:
    """Creates a webhook. Its secret is returned only here."""
    _check(spec.url, spec.events, settings)
    if await queries.count_alone(session, caller.project) >= rules.MAX_WEBHOOKS:
        raise ConflictError(f"Your project has {rules.MAX_WEBHOOKS} webhooks, the maximum. Delete one first.")
    row = WebhookRow(
        id=new_id(), project_id=caller.project, url=spec.url, events=rules.sorted_events(spec.events), created_at=now
    )
    session.add(row)
    await session.flush()
    _record(session, caller, "webhook.create", row, now, url=row.url, events=row.events)
    return _with_secret(row, settings)


async def rotate_secret(
    session: AsyncSession, caller: Caller, webhook_id: str, settings: Settings, *, now: int
) -> WebhookWithSecret:
    """Creates a new secret, returned only here. For a day, deliveries are also signed with the old one."""
    row = await _own(session, caller, webhook_id, lock=True)
    row.secret_number += 1
    row.old_secret_until = now + rules.ROTATION_SECONDS
    _record(session, caller, "webhook.rotate", row, now)
    return _with_secret(row, settings)


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Webhook]:
    """Newest first."""
    rows = await queries.webhooks(session, caller.project, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of([_view(row) for row in rows], cursor)


async def get(session: AsyncSession, caller: Caller, webhook_id: str) -> Webhook:
    return _view(await _own(session, caller, webhook_id))


async def change(
    session: AsyncSession, caller: Caller, webhook_id: str, patch: WebhookPatch, settings: Settings, *, now: int
) -> Webhook:
    """Changes a webhook. Resets the failures if the URL changes or the webhook is enabled."""
    row = await _own(session, caller, webhook_id, lock=True)
    _check(patch.url, patch.events or (), settings)
    row.url = patch.url or row.url
    row.events = row.events if patch.events is None else rules.sorted_events(patch.events)
    row.is_active = row.is_active if patch.is_active is None else patch.is_active
    if patch.url is not None or patch.is_active:
        await _retry_now(session, row, now)
    _record(session, caller, "webhook.change", row, now, **patch.model_dump(exclude_none=True))
    return _view(row)


async def delete(session: AsyncSession, caller: Caller, webhook_id: str, *, now: int) -> None:
    """Deletes the webhook with all its deliveries, including pending ones."""
    row = await _own(session, caller, webhook_id, lock=True)
    await session.delete(row)
    _record(session, caller, "webhook.delete", row, now, url=row.url)


async def send_test(session: AsyncSession, caller: Caller, webhook_id: str, *, now: int) -> Delivery:
    """Sends a `webhook.test` event to this webhook only, immediately."""
    row = await _own(session, caller, webhook_id, lock=True)
    event_id = new_id()
    body = rules.body(event_id, TEST_EVENT, at=now, project_id=row.project_id, data={"webhook": str(row.id)})
    return await _send_now(session, row, _new_delivery(row, event_id, TEST_EVENT, body, now), now)


async def deliveries(
    session: AsyncSession, caller: Caller, webhook_id: str, state: DeliveryState | None, paging: Paging
) -> Page[Delivery]:
    """Newest first."""
    webhook = await _own(session, caller, webhook_id)
    rows = await queries.deliveries(session, webhook.id, state, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of([Delivery(**_delivery_fields(row)) for row in rows], cursor)


async def delivery(session: AsyncSession, caller: Caller, webhook_id: str, delivery_id: str) -> DeliveryWithBody:
    webhook = await _own(session, caller, webhook_id)
    row = await _delivery_of(session, webhook, delivery_id)
    return DeliveryWithBody(**_delivery_fields(row), body=row.body)


async def redeliver(session: AsyncSession, caller: Caller, webhook_id: str, delivery_id: str, *, now: int) -> Delivery:
    """Sends the event again in a new delivery. A pending delivery is attempted immediately instead."""
    webhook = await _own(session, caller, webhook_id, lock=True)
    row = await _delivery_of(session, webhook, delivery_id)
    if row.state != DeliveryState.PENDING:
        row = _new_delivery(webhook, row.event_id, row.type, row.body, now)
    return await _send_now(session, webhook, row, now)


async def backlog(session: AsyncSession, limit: int) -> Backlog:
    """Pending work of all projects, counted up to `limit`."""
    return Backlog(
        events=await queries.count_events(session, limit), failing=await queries.count_failing(session, limit)
    )


async def forget_old(session: AsyncSession, *, now: int) -> None:
    """Deletes deliveries after `KEEP_SECONDS`."""
    await queries.delete_deliveries(session, now - rules.KEEP_SECONDS, _MAX_FORGOTTEN)


async def _own(session: AsyncSession, caller: Caller, webhook_id: str, *, lock: bool = False) -> WebhookRow:
    uid = parse_uuid(webhook_id)
    row = await queries.webhook(session, caller.project, uid, lock=lock) if uid else None
    if row is None:
        raise NotFoundError("There is no such webhook in your project. GET /v1/webhooks lists yours.")
    return row


async def _delivery_of(session: AsyncSession, webhook: WebhookRow, delivery_id: str) -> DeliveryRow:
    uid = parse_uuid(delivery_id)
    row = await queries.delivery(session, webhook.id, uid) if uid else None
    if row is None:
        raise NotFoundError("This webhook has no such delivery. Deliveries are kept for 30 days.")
    return row


def _check(url: str | None, events: list[str] | tuple[()], settings: Settings) -> None:
    refusal = rules.url_refusal(url, allow_private=settings.webhooks_allow_private) if url is not None else None
    if refusal is not None:
        raise InvalidRequestError(refusal, param="url")
    unknown = rules.unknown_events(events)
    if unknown:
        named = ", ".join(f"`{name}`" for name in unknown)
        raise InvalidRequestError(f"There are no events {named}. Choose from: {rules.known_events()}.", param="events")


def _new_delivery(webhook: WebhookRow, event_id: uuid.UUID, type_: str, body: str, now: int) -> DeliveryRow:
    return DeliveryRow(
        webhook_id=webhook.id,
        event_id=event_id,
        type=type_,
        body=body,
        state=DeliveryState.PENDING,
        created_at=now,
    )


async def _send_now(session: AsyncSession, webhook: WebhookRow, row: DeliveryRow, now: int) -> Delivery:
    """Sends it immediately, even if the address has failed: a user is waiting for the result."""
    if not webhook.is_active:
        raise ConflictError('This webhook is disabled. Enable it first: PATCH it with {"is_active": true}.')
    row.next_attempt_at = now
    session.add(row)
    await _retry_now(session, webhook, now)
    return Delivery(**_delivery_fields(row))


async def _retry_now(session: AsyncSession, webhook: WebhookRow, now: int) -> None:
    webhook.failures, webhook.retry_at = 0, None
    await session.flush()
    await ask_for(session, {webhook}, now)


def _record(session: AsyncSession, caller: Caller, action: str, row: WebhookRow, now: int, **details: Any) -> None:
    Audit(session, row.project_id, caller.actor, now).done(action, f"webhook:{row.id}", **details)


def _with_secret(row: WebhookRow, settings: Settings) -> WebhookWithSecret:
    key = rules.signing_key(settings.signing_secret(), row.id, row.secret_number)
    return WebhookWithSecret(**_view(row).model_dump(), secret=rules.secret(key))


def _view(row: WebhookRow) -> Webhook:
    return Webhook(
        id=str(row.id),
        url=row.url,
        events=row.events,
        is_active=row.is_active,
        failures=row.failures,
        retry_at=row.retry_at,
        old_secret_valid_until=row.old_secret_until,
        created_at=row.created_at,
    )


def _delivery_fields(row: DeliveryRow) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "webhook": str(row.webhook_id),
        "event": str(row.event_id),
        "type": row.type,
        "state": row.state,
        "attempts": row.attempts,
        "status": row.status,
        "error": row.error,
        "created_at": row.created_at,
        "attempted_at": row.attempted_at,
        "next_attempt_at": row.next_attempt_at,
    }
