"""Imports of models from other places."""

import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id


class ImportRow(Table):
    """An import of one version. It outlives the version, so it repeats its name and the model's."""

    __tablename__ = "imports"
    __table_args__ = (
        Index("ix_imports_project_id_id", "project_id", "id"),
        CheckConstraint("state IN ('importing', 'stored', 'failed', 'cancelled')", name="state"),
        CheckConstraint("state = 'importing' OR token IS NULL", name="token_only_while_importing"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    actor: Mapped[str]
    """Who asked for it, as in the audit log."""
    source: Mapped[str]
    endpoint: Mapped[str]
    name: Mapped[str]
    options: Mapped[dict[str, Any]] = mapped_column(JsonColumn, default=dict)
    """The other fields of `wire.importing.ImportCreate`, without the token."""
    token: Mapped[str | None]
    """Sealed (`server.sealing`) for this row and its endpoint."""
    state: Mapped[str]
    """`stored`: all files are stored; the version's own status says the rest."""
    reason: Mapped[str | None]
    commit: Mapped[str | None]
    version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_versions.id", ondelete="SET NULL"))
    upload_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("uploads.id", ondelete="SET NULL"))
    """The session that the files are sent to; None while none is open, and if the version existed already."""
    model_id: Mapped[uuid.UUID | None]
    version_name: Mapped[str | None]
    left_out: Mapped[str | None]
    files: Mapped[int | None]
    bytes_total: Mapped[int | None]
    bytes_done: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[int]
    progressed_at: Mapped[int]
    """When bytes last arrived."""
    ended_at: Mapped[int | None]
