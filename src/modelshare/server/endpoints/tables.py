"""Endpoints and their usage."""

import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, and_
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.tables import EVERYBODY, LastShownRow, RecallRow, ShareProjectRow, ShareRow


class EndpointRow(Table):
    """An endpoint: the deployer's settings, and the status that the fleet last observed."""

    __tablename__ = "endpoints"
    __table_args__ = (
        UniqueConstraint("project_id", "slug"),
        Index("ix_endpoints_model_id", "model_id", "is_active", "tier"),
        Index("ix_endpoints_tier", "tier", "is_active"),
        CheckConstraint("status IN ('provisioning', 'active', 'degraded', 'inactive', 'failed')", name="status"),
        CheckConstraint("is_active OR status IN ('inactive', 'failed')", name="inactive_status"),
        CheckConstraint("NOT is_active OR status <> 'inactive'", name="active_status"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    slug: Mapped[str]
    model_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("models.id", ondelete="SET NULL"))
    """None after the owner deleted the model."""
    tier: Mapped[str]
    version: Mapped[str | None]
    """A fixed version, or None for the latest."""
    is_active: Mapped[bool]
    status: Mapped[str]
    status_reason: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    """`wire.endpoints.EndpointProgress` of the most advanced agent."""
    created_at: Mapped[int]
    file: Mapped[str | None]
    """A file that selects one of the version's models; None for the version's own."""
    tier_signers: Mapped[str | None]
    """The signature that its tier requires of a version, in the form of `policy.tier_signers`; None: nothing."""

    project: Mapped[ProjectRow] = relationship(lazy="raise")
    model: Mapped[ModelRow | None] = relationship(lazy="raise")
    model_recall: Mapped[RecallRow | None] = relationship(
        primaryjoin=lambda: foreign(EndpointRow.model_id) == RecallRow.model_id, viewonly=True, lazy="raise"
    )

    share: Mapped[ShareRow | None] = relationship(
        primaryjoin=lambda: foreign(EndpointRow.model_id) == ShareRow.model_id, viewonly=True, lazy="raise"
    )
    invitation: Mapped[ShareProjectRow | None] = relationship(
        primaryjoin=lambda: and_(
            foreign(EndpointRow.model_id) == ShareProjectRow.model_id,
            foreign(EndpointRow.project_id) == ShareProjectRow.project_id,
        ),
        viewonly=True,
        lazy="raise",
    )
    """Present if the model's targeted share includes the endpoint's project."""
    last_shown: Mapped[LastShownRow | None] = relationship(
        primaryjoin=lambda: and_(
            foreign(EndpointRow.model_id) == LastShownRow.model_id,
            foreign(EndpointRow.project_id) == LastShownRow.project_id,
        ),
        viewonly=True,
        lazy="raise",
    )
    last_public: Mapped[LastShownRow | None] = relationship(
        primaryjoin=lambda: and_(
            foreign(EndpointRow.model_id) == LastShownRow.model_id, LastShownRow.project_id == EVERYBODY
        ),
        viewonly=True,
        lazy="raise",
    )

    @property
    def recall(self) -> RecallRow | None:
        """The recall of its model; None for the owner's own endpoints. `model_recall` must be loaded."""
        is_owners = self.model is not None and self.model.project_id == self.project_id
        return None if is_owners else self.model_recall


class UsageRow(Table):
    """Requests and tokens of one day (or month), endpoint, key, tier and version.

    No foreign keys: usage outlives endpoints and keys.
    """

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_project_id_day", "project_id", "day"),
        Index("ix_usage_model_id_day", "model_id", "day"),
    )

    day: Mapped[str] = mapped_column(primary_key=True)
    """`YYYY-MM-DD`, UTC; `YYYY-MM` once the month is rolled up."""
    endpoint_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """Of the endpoint, the tier and the version (`usage_id`); in rows of versions before tiers, the endpoint's ID."""
    key_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    endpoint_slug: Mapped[str]
    model_id: Mapped[uuid.UUID | None]
    requests: Mapped[int]
    errors: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    estimated: Mapped[int] = mapped_column(default=0, server_default="0")
    """Requests whose tokens are an estimate."""
    tier: Mapped[str] = mapped_column(default="", server_default="")
    """Of the endpoint at the time; empty in rows from before it was recorded, like the version."""
    version: Mapped[str] = mapped_column(default="", server_default="")
    """Empty also for requests that no machine was asked to answer."""
    cost_micros: Mapped[int] = mapped_column(default=0, server_default="0")
    """By the tier's price at the time, in millionths of its unit."""
    cost_rest: Mapped[int] = mapped_column(default=0, server_default="0")
    """What is left of the cost, in millionths of `cost_micros`, so that nothing is lost by rounding."""
    of_endpoint_id: Mapped[uuid.UUID | None]
    """The endpoint; None if `endpoint_id` is its ID."""


class UsageWriterRow(Table):
    """A process that counts usage, and the last batch of counts that it has added.

    A batch is added in the transaction that notes its number here, so that one whose commit was not confirmed can be
    sent again without being counted twice.
    """

    __tablename__ = "usage_writers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    batch: Mapped[int]
    written_at: Mapped[int]
