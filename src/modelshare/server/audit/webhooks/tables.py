"""Webhooks and their deliveries."""

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id


class WebhookRow(Table):
    """A project's URL that receives events."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_project_id_id", "project_id", "id"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(JsonColumn)
    """Types, or patterns such as `endpoint.*`; empty: all events."""
    is_active: Mapped[bool] = mapped_column(default=True)
    failures: Mapped[int] = mapped_column(default=0)
    """Consecutive failed attempts; deliveries sent concurrently count as one."""
    retry_at: Mapped[int | None]
    """When deliveries may be sent again, after a failure."""
    created_at: Mapped[int]
    secret_number: Mapped[int] = mapped_column(default=1, server_default="1")
    """The number of its present secret, which is derived from it."""
    old_secret_until: Mapped[int | None]
    """Until then, deliveries are also signed with the previous secret."""


class DeliveryRow(Table):
    """One event for one webhook."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
        Index("ix_webhook_deliveries_webhook_id_next_attempt_at", "webhook_id", "next_attempt_at"),
        Index("ix_webhook_deliveries_created_at", "created_at"),
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event_id: Mapped[uuid.UUID]
    """The same in all deliveries of the event."""
    type: Mapped[str]
    body: Mapped[str]
    """The JSON to send, byte for byte the same in every attempt."""
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None]
    """HTTP status of the last attempt; None without a response."""
    error: Mapped[str | None]
    created_at: Mapped[int]
    attempted_at: Mapped[int | None]
    next_attempt_at: Mapped[int | None]
    """None unless it is pending."""
