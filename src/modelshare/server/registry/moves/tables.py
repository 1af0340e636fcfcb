"""Moves of versions from one storage to another."""

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import Table
from modelshare.server.ids import new_id

_MOVING = "state = 'moving'"


class MoveRow(Table):
    """A move of one version. It outlives the version, so it repeats its name and the model's."""

    __tablename__ = "storage_moves"
    __table_args__ = (
        # A version moves to one place at a time.
        Index(
            "uq_storage_moves_moving",
            "version_id",
            unique=True,
            sqlite_where=text(_MOVING),
            postgresql_where=text(_MOVING),
        ),
        Index("ix_storage_moves_project_id_id", "project_id", "id"),
        CheckConstraint("state IN ('moving', 'done', 'failed', 'cancelled')", name="state"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_versions.id", ondelete="SET NULL"))
    model_id: Mapped[uuid.UUID]
    model_name: Mapped[str]
    version_name: Mapped[str]
    storage: Mapped[str]
    """Where to, as in `BlobRow.storage`."""
    state: Mapped[str]
    """`wire.storage.MoveState`."""
    reason: Mapped[str | None]
    """Why it failed, or what it waits for."""
    bytes_total: Mapped[int]
    bytes_done: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[int]
    ended_at: Mapped[int | None]


class MoveFileRow(Table):
    """A copy of a file's bytes in the new storage. The rows are deleted when the move ends."""

    __tablename__ = "storage_move_files"

    move_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("storage_moves.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    key: Mapped[str]
    multipart_id: Mapped[str]
    part_size: Mapped[int]
    is_copied: Mapped[bool] = mapped_column(default=False)
    """Whether the copy is complete and its digest verified."""
