"""Shares, their audiences, and recalls."""

import uuid
from typing import Final

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id
from modelshare.server.registry.tables import ModelRow


class ShareRow(Table):
    """A model in the catalog. Without this row it has no role, no featured flag and no count."""

    __tablename__ = "shares"
    __table_args__ = (
        CheckConstraint("role IN ('deployable', 'shared')", name="role"),
        CheckConstraint("role <> 'shared' OR shared_tier_endpoints > 0", name="shared_role_in_use"),
        CheckConstraint("shared_tier_endpoints >= 0", name="shared_tier_endpoints"),
        CheckConstraint("deployment_count >= shared_tier_endpoints", name="deployment_count"),
        CheckConstraint("audience IN ('public', 'targeted')", name="audience"),
        CheckConstraint("audience = 'public' OR NOT featured", name="featured_is_public"),
        Index("ix_shares_recent", "shared_at", "model_id"),
        Index("ix_shares_deployments", "deployment_count", "model_id"),
        # Only a few of very many are featured.
        Index("ix_shares_featured", "shared_at", sqlite_where=text("featured = 1"), postgresql_where=text("featured")),
    )

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str]
    featured: Mapped[bool] = mapped_column(default=False)
    shared_at: Mapped[int]
    deployment_count: Mapped[int]
    """Active endpoints of all projects."""
    shared_tier_endpoints: Mapped[int]
    """Active endpoints on shared tiers."""
    audience: Mapped[str] = mapped_column(server_default="public")
    """`public`: everyone. `targeted`: only the projects in `share_projects` can see that it exists."""

    model: Mapped[ModelRow] = relationship(lazy="raise")


class ClaimLinkRow(Table):
    """A claim link of a targeted share: a project that claims it is added to the audience."""

    __tablename__ = "share_links"
    __table_args__ = (
        UniqueConstraint("hash"),
        Index("ix_share_links_model_id", "model_id"),
        CheckConstraint("uses >= 0 AND (max_uses IS NULL OR uses <= max_uses)", name="uses"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("shares.model_id", ondelete="CASCADE"))
    hash: Mapped[str]
    expires_at: Mapped[int | None]
    max_uses: Mapped[int | None]
    """The maximum number of projects that may claim it; None: no limit."""
    uses: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[int]


class ShareProjectRow(Table):
    """A project to which a targeted share is visible."""

    __tablename__ = "share_projects"
    __table_args__ = (Index("ix_share_projects_project_id", "project_id"),)

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("shares.model_id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    link_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("share_links.id", ondelete="SET NULL"))
    """The link used to claim it; None if the owner added the project."""
    added_at: Mapped[int]

    project: Mapped[ProjectRow] = relationship(lazy="raise")


EVERYBODY: Final = ""
"""Stands for all projects in `LastShownRow.project_id`."""


class LastShownRow(Table):
    """The versions of a model when a project, or (`EVERYBODY`) the public, could last see it. Endpoints stay at this
    state.

    The project's own row is the newer one of the two, since public sharing deletes all rows.
    """

    __tablename__ = "last_shown"
    __table_args__ = (Index("ix_last_shown_version_id", "version_id"),)

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_versions.id", ondelete="SET NULL"))
    """The latest version at that time; None if there was none, or it was deleted since."""
    versions: Mapped[list[str]] = mapped_column(JsonColumn)
    """IDs of the versions that could be selected."""


class RecallRow(Table):
    """A recall: other projects' endpoints stop at the deadline. The row is deleted if the recall is cancelled."""

    __tablename__ = "recalls"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    deadline: Mapped[int]
    reason: Mapped[str]
    created_at: Mapped[int]
    stopped_at: Mapped[int | None]
    """When the endpoints were stopped; None until then."""
