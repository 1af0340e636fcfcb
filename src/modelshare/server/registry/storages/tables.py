"""Where projects keep what they push, besides the platform's own storage."""

import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id

_CURRENT = "writable AND replaced_at IS NULL"


class StorageRow(Table):
    """A storage of a project. `BlobRow.storage` and the like name it by `id.hex`.

    It stays as long as something lies there; no new push goes to one that was replaced.
    """

    __tablename__ = "storages"
    __table_args__ = (
        # What is registered in place has a storage of its own, even where new pushes go: nothing is deleted there.
        UniqueConstraint("project_id", "kind", "url", "endpoint", "writable"),
        # A project has at most one storage for new pushes.
        Index(
            "uq_storages_current",
            "project_id",
            unique=True,
            sqlite_where=text(_CURRENT),
            postgresql_where=text(_CURRENT),
        ),
        CheckConstraint("kind IN ('bucket', 'held')", name="kind"),
        CheckConstraint("(kind = 'held') = (holder_id IS NOT NULL)", name="held"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(default="bucket")
    """`held` is a folder of its owner's machine, reached through an agent."""
    url: Mapped[str]
    """`s3://bucket/prefix`, or `held:<id of the agent>`."""
    endpoint: Mapped[str] = mapped_column(default="")
    """Empty: AWS."""
    region: Mapped[str | None]
    addressing: Mapped[str] = mapped_column(default="path")
    credentials: Mapped[str | None]
    """Sealed, see `server.sealing`; None: a role is assumed, or the files are held."""
    key_hint: Mapped[str | None]
    """The last characters of the access key's id."""
    role_arn: Mapped[str | None]
    direct: Mapped[bool] = mapped_column(default=True)
    """False: no signed URLs, everything is relayed."""
    writable: Mapped[bool] = mapped_column(default=True)
    """False: it is read only, as where models are registered in place."""
    revision: Mapped[int] = mapped_column(default=1)
    """Counts changes; a client that was opened for another revision is not used any more."""
    created_at: Mapped[int]
    replaced_at: Mapped[int | None]
    checked_at: Mapped[int | None]
    checks: Mapped[list[dict[str, Any]]] = mapped_column(JsonColumn, default=list)
    """The steps of the last check, as `wire.storage.CheckStep`."""
    credentials_of: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("storages.id", ondelete="SET NULL"))
    """The project's storage whose keys or role these are; when they change there, they change here."""
    holder_id: Mapped[uuid.UUID | None]
    """The agent that holds the files, of a storage of kind `held`."""
