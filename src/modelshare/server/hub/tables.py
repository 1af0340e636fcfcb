"""Tokens of endpoints, and the unfinished branches and chunks of Hugging Face clients."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.db import JsonColumn, Table
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.ids import new_id
from modelshare.server.storage.stores import PLATFORM


class EndpointTokenRow(Table):
    """The token of an endpoint."""

    __tablename__ = "endpoint_tokens"

    endpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[int]
    created_by: Mapped[str]
    """An actor of the audit log."""

    endpoint: Mapped[EndpointRow] = relationship(lazy="raise")


class DraftRow(Table):
    """The content of a branch, `main` or a version number, until it is a ready version."""

    __tablename__ = "hub_drafts"
    __table_args__ = (
        UniqueConstraint("project_id", "name_key", "branch"),
        Index("ix_hub_drafts_expires_at", "expires_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    """Of the model, which may not exist yet."""
    name_key: Mapped[str]
    branch: Mapped[str]
    tree: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    """By path: SHA-256, size, and the git object ID of a small file if it is known."""
    announced: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    """Paths that a client is going to commit, with the time of the announcement in Unix milliseconds."""
    commit: Mapped[str]
    """The commit ID until the version has a manifest."""
    version_id: Mapped[uuid.UUID | None]
    """The version that was created from the tree. It may have been deleted."""
    expires_at: Mapped[int]


class XorbRow(Table):
    """A xorb (packed chunks of files), valid in one repository and generation."""

    __tablename__ = "hub_xorbs"
    __table_args__ = (
        UniqueConstraint("project_id", "name_key", "generation", "xorb"),
        Index("ix_hub_xorbs_expires_at", "expires_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name_key: Mapped[str]
    generation: Mapped[str]
    xorb: Mapped[str]
    """Its hash as the client computed it."""
    storage: Mapped[str] = mapped_column(default=PLATFORM, server_default=PLATFORM)
    """The project's storage when it was announced."""
    size: Mapped[int]
    key: Mapped[str]
    multipart_id: Mapped[str]
    is_stored: Mapped[bool]
    expires_at: Mapped[int]
