"""Who did what, when and why; which processes have heard of it; and what is to be told to others."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index
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
    """Whose log shows it; None is the platform's own."""
    at: Mapped[int]
    actor: Mapped[str]
    action: Mapped[str]
    target: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str | None]
    details: Mapped[dict[str, Any]]
    changed_ms: Mapped[int | None]
    """Milliseconds of the database's clock, where every process confirms that it goes by the change; else None."""


class ConfirmationRow(Table):
    """A process has dropped whatever it remembered from before the change."""

    __tablename__ = "audit_confirmations"

    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audit_log.id", ondelete="CASCADE"), primary_key=True)
    process: Mapped[str] = mapped_column(primary_key=True)
    at_ms: Mapped[int]
    """Milliseconds of the database's clock."""


class ProcessRow(Table):
    """A server process that is, or was lately, running."""

    __tablename__ = "processes"

    name: Mapped[str] = mapped_column(primary_key=True)
    """Says nothing of where it runs: tenants see it."""
    address: Mapped[str]
    started_ms: Mapped[int]
    seen_ms: Mapped[int]
    """Milliseconds of the database's clock, as the one before."""
    version: Mapped[str | None]
    """Of modelshare; None while one runs that did not say."""


class OutboxRow(Table):
    """An event, written in the transaction of its change; it goes when its deliveries are written."""

    __tablename__ = "outbox"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str]
    """Whose webhooks hear of it."""
    type: Mapped[str]
    at: Mapped[int]
    data: Mapped[dict[str, Any]]
