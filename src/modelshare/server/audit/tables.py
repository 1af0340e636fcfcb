"""Who did what, when and why."""

import uuid
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import Table
from modelshare.server.ids import new_id


class AuditRow(Table):
    """One action, done or refused. Rows are only ever added."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_project_id_id", "project_id", "id"),)

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
