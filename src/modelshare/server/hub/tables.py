"""Tokens for what an endpoint runs, and versions that clients of other forms put together commit by commit."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.db import JsonColumn, Table
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.ids import new_id
from modelshare.server.storage.stores import PLATFORM


class EndpointTokenRow(Table):
    """The one token of an endpoint. It goes with the endpoint."""

    __tablename__ = "endpoint_tokens"

    endpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[int]
    created_by: Mapped[str]
    """As the audit log names who made it."""

    endpoint: Mapped[EndpointRow] = relationship(lazy="raise")


class DraftRow(Table):
    """What commits have made of a branch, until it is a version that is ready. A branch is `main` or a version."""

    __tablename__ = "hub_drafts"
    __table_args__ = (
        UniqueConstraint("project_id", "name_key", "branch"),
        Index("ix_hub_drafts_expires_at", "expires_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    """Of the model, which need not be there yet."""
    name_key: Mapped[str]
    branch: Mapped[str]
    tree: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    """By path: SHA-256, size, and git's name of a small file where it is known."""
    announced: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    """Paths that a client said it will commit, and when it said so, in Unix milliseconds."""
    commit: Mapped[str]
    """What the tree is called until the version has a manifest."""
    version_id: Mapped[uuid.UUID | None]
    """The version that was made of the tree. It may have been deleted since."""
    expires_at: Mapped[int]


class XorbRow(Table):
    """Packed chunks of files, kept while files are rebuilt of them. Known in one repository and generation only."""

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
    """The client's name of it, a hash."""
    storage: Mapped[str] = mapped_column(default=PLATFORM, server_default=PLATFORM)
    """The project's storage when it was announced."""
    size: Mapped[int]
    key: Mapped[str]
    multipart_id: Mapped[str]
    is_stored: Mapped[bool]
    expires_at: Mapped[int]
