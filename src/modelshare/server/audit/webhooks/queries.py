"""All queries for webhooks, deliveries and the outbox."""

import uuid
from collections.abc import Collection

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import load_only

from modelshare.server.audit.tables import OutboxRow
from modelshare.server.audit.webhooks.tables import DeliveryRow, WebhookRow
from modelshare.server.db import any_tenant, capped_count, for_update, scoped_to, skip_locked
from modelshare.wire.webhooks import DeliveryState


async def webhooks(session: AsyncSession, project_id: str, limit: int, after: uuid.UUID | None) -> list[WebhookRow]:
    """Newest first."""
    statement = scoped_to(WebhookRow, project_id).order_by(WebhookRow.id.desc()).limit(limit)
    return list(await session.scalars(statement.where(WebhookRow.id < after) if after else statement))


async def webhook(
    session: AsyncSession, project_id: str, webhook_id: uuid.UUID, *, lock: bool = False
) -> WebhookRow | None:
    statement = scoped_to(WebhookRow, project_id).where(WebhookRow.id == webhook_id)
    return await session.scalar(for_update(statement) if lock else statement)


async def lock_webhook(session: AsyncSession, webhook_id: uuid.UUID) -> WebhookRow | None:
    """A webhook of any project, for background work."""
    return await session.scalar(for_update(select(any_tenant(WebhookRow)).where(WebhookRow.id == webhook_id)))


async def count_alone(session: AsyncSession, project_id: str) -> int:
    """The number of the project's webhooks, under a lock that serializes creation."""
    await session.scalars(for_update(scoped_to(WebhookRow, project_id).order_by(WebhookRow.id)))
    capped_count = scoped_to(WebhookRow, project_id).subquery()
    return await session.scalar(select(func.count()).select_from(capped_count)) or 0


async def lock_active(session: AsyncSession, project_ids: Collection[str]) -> list[WebhookRow]:
    """The active webhooks of these projects, locked in a fixed order."""
    statement = select(WebhookRow).where(WebhookRow.project_id.in_(project_ids), WebhookRow.is_active)
    return list(await session.scalars(for_update(statement.order_by(WebhookRow.id))))


async def has_events(session: AsyncSession) -> bool:
    return await session.scalar(select(any_tenant(OutboxRow).id).limit(1)) is not None


async def count_events(session: AsyncSession, limit: int) -> int:
    return await session.scalar(capped_count(select(any_tenant(OutboxRow).id), limit)) or 0


async def count_failing(session: AsyncSession, limit: int) -> int:
    failing = select(any_tenant(WebhookRow).id).where(WebhookRow.is_active, WebhookRow.failures > 0)
    return await session.scalar(capped_count(failing, limit)) or 0


async def take_events(session: AsyncSession, limit: int) -> list[OutboxRow]:
    """The oldest events that no other process is taking."""
    return list(await session.scalars(skip_locked(select(any_tenant(OutboxRow)).order_by(OutboxRow.id).limit(limit))))


async def delete_events(session: AsyncSession, ids: Collection[uuid.UUID]) -> None:
    await session.execute(delete(any_tenant(OutboxRow)).where(OutboxRow.id.in_(ids)))


async def deliveries(
    session: AsyncSession, webhook_id: uuid.UUID, state: DeliveryState | None, limit: int, after: uuid.UUID | None
) -> list[DeliveryRow]:
    """Newest first. The caller must own the webhook."""
    statement = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id)
    if state is not None:
        statement = statement.where(DeliveryRow.state == state)
    if after is not None:
        statement = statement.where(DeliveryRow.id < after)
    return list(await session.scalars(statement.order_by(DeliveryRow.id.desc()).limit(limit)))


async def delivery(session: AsyncSession, webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> DeliveryRow | None:
    """The caller must own the webhook."""
    statement = select(DeliveryRow).where(DeliveryRow.webhook_id == webhook_id, DeliveryRow.id == delivery_id)
    return await session.scalar(statement)


async def deliveries_by_id(session: AsyncSession, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, DeliveryRow]:
    return {row.id: row for row in await session.scalars(select(DeliveryRow).where(DeliveryRow.id.in_(ids)))}


async def pending(session: AsyncSession, webhook_id: uuid.UUID, limit: int) -> list[DeliveryRow]:
    """Pending deliveries, in the order in which they are due."""
    statement = select(DeliveryRow).where(
        DeliveryRow.webhook_id == webhook_id, DeliveryRow.next_attempt_at.is_not(None)
    )
    return list(await session.scalars(statement.order_by(DeliveryRow.next_attempt_at, DeliveryRow.id).limit(limit)))


async def give_up_older(session: AsyncSession, webhook_id: uuid.UUID, created_before: int, error: str) -> None:
    """Fails pending deliveries that never got their attempts, because the address failed all the time."""
    await session.execute(
        update(DeliveryRow)
        .where(
            DeliveryRow.webhook_id == webhook_id,
            DeliveryRow.next_attempt_at.is_not(None),
            DeliveryRow.created_at < created_before,
        )
        .values(state=DeliveryState.FAILED, error=error, next_attempt_at=None)
    )


async def delete_deliveries(session: AsyncSession, created_before: int, limit: int) -> None:
    """Deletes the oldest ones, up to `limit`, skipping those locked by another process."""
    old = select(DeliveryRow).where(DeliveryRow.created_at < created_before).order_by(DeliveryRow.created_at)
    ids = [row.id for row in await session.scalars(skip_locked(old.options(load_only(DeliveryRow.id)).limit(limit)))]
    await session.execute(delete(DeliveryRow).where(DeliveryRow.id.in_(ids)))
