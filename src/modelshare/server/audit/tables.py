"""The audit log, confirmations by processes, and the outbox of events."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index, false
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import Table
from modelshare.server.ids import new_id


class AuditRow(Table):
    """One action, done or refused. Rows are only ever added."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_project_id_id", "project_id", "id"),
        Index("ix_audit_log_changed_ms", "changed_ms"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str | None]
    """The project whose log shows it; None: the platform's own."""
    at: Mapped[int]
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    details: Mapped[dict[str, Any]]
    changed_ms: Mapped[int | None]
    """Milliseconds of the database's clock, if every process has to confirm the change; else None."""


class ConfirmationRow(Table):
    """A process has dropped cached data from before the change."""

    __tablename__ = "audit_confirmations"

    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audit_log.id", ondelete="CASCADE"), primary_key=True)
    process: Mapped[str] = mapped_column(primary_key=True)
    at_ms: Mapped[int]
    """Milliseconds of the database's clock."""


class ProcessRow(Table):
    """A server process that is or was recently running."""

    __tablename__ = "processes"

    name: Mapped[str] = mapped_column(primary_key=True)
    """Must not reveal where it runs, since tenants see it."""
    address: Mapped[str]
    started_ms: Mapped[int]
    seen_ms: Mapped[int]
    """Milliseconds of the database's clock, like `started_ms`."""
    version: Mapped[str | None]
    """Of modelshare; None for a process older than this column."""
    is_leaving: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It is about to stop, and agents connect to others."""


class OutboxRow(Table):
    """An event, written in the transaction of its change and deleted when its deliveries are written."""

    __tablename__ = "outbox"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str]
    """The project whose webhooks receive it."""
    type: Mapped[str]
    at: Mapped[int]
    data: Mapped[dict[str, Any]]
