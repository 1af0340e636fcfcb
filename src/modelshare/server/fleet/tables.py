"""Join keys, agents, their links, deployments, and requests to delete weights."""

import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id
from modelshare.server.registry.tables import VersionRow


class JoinKeyRow(Table):
    """A join key. Revoking it keeps the agents that enrolled with it."""

    __tablename__ = "join_keys"
    __table_args__ = (UniqueConstraint("hash"), Index("ix_join_keys_project_id", "project_id"))

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    """None: the platform's, for shared agents."""
    name: Mapped[str]
    hash: Mapped[str]
    tiers: Mapped[list[str] | None] = mapped_column(JsonColumn)
    """Shared tiers an agent serves; None for a private agent."""
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    revoked_at: Mapped[int | None]


class AgentRow(Table):
    __tablename__ = "agents"
    __table_args__ = (
        UniqueConstraint("token_hash"),
        Index("ix_agents_project_id", "project_id"),
        Index("ix_agents_join_key_id", "join_key_id"),
        CheckConstraint("state IN ('pending', 'active', 'disconnected', 'suspended', 'removed')", name="state"),
        CheckConstraint("(project_id IS NULL) = (tiers IS NOT NULL)", name="private_or_shared"),
        CheckConstraint("project_id IS NOT NULL OR NOT is_holder", name="holders_are_private"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    token_hash: Mapped[str]
    tiers: Mapped[list[str] | None] = mapped_column(JsonColumn)
    state: Mapped[str]
    capabilities: Mapped[dict[str, Any]]
    linked_to: Mapped[str | None]
    """Unused, like `link_token`: earlier versions wrote here what is now in `agent_links`."""
    link_token: Mapped[uuid.UUID | None]
    created_at: Mapped[int]
    last_seen_at: Mapped[int | None]
    join_key_id: Mapped[uuid.UUID | None]
    """The key used to enroll. Not a foreign key; None for agents older than this column."""
    is_holder: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It runs no models: it serves files that stay on its machine."""
    instance: Mapped[str | None]
    """The run of the agent's program that its links belong to; None for an agent that does not say."""
    expected_until: Mapped[int | None]
    """Until when requests wait for it: its last link was lost, or it has not reported yet."""


class AgentLinkRow(Table):
    """A connection of an agent to a server process."""

    __tablename__ = "agent_links"
    __table_args__ = (UniqueConstraint("agent_id", "process"), Index("ix_agent_links_address", "address"))

    token: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    agent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("agents.id", ondelete="CASCADE"))
    process: Mapped[str]
    """Its name among the processes."""
    address: Mapped[str]
    """URL of the process for the other processes."""
    seen_at: Mapped[int]


class DeploymentRow(Table):
    """A model that an agent should serve, and its progress. Without this row the agent gets no grant."""

    __tablename__ = "deployments"
    __table_args__ = (
        UniqueConstraint("agent_id", "version_id", "file"),
        Index("ix_deployments_version_id", "version_id"),
        CheckConstraint(
            "phase IN ('waiting', 'pulling', 'verifying', 'converting', 'loading', 'ready', 'failed')", name="phase"
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    agent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("agents.id", ondelete="CASCADE"))
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"))
    phase: Mapped[str]
    bytes_done: Mapped[int] = mapped_column(default=0)
    bytes_total: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None]
    routes: Mapped[list[str]] = mapped_column(JsonColumn, default=list)
    """The API routes that the engine serves when ready."""
    max_concurrent: Mapped[int]
    """Concurrent requests that the tiers of its endpoints allow."""
    created_at: Mapped[int]
    file: Mapped[str] = mapped_column(default="", server_default="")
    """Which of the version's models, if not the default one."""

    agent: Mapped[AgentRow] = relationship(lazy="raise")
    version: Mapped[VersionRow] = relationship(lazy="raise")


class ServingRow(Table):
    """The model that an active endpoint serves, or served last. No row if it never served one."""

    __tablename__ = "serving"

    endpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True)
    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"))
    file: Mapped[str] = mapped_column(default="", server_default="")


class WeightDeletionRow(Table):
    """A request to an agent to delete the weights of a deployment, and its confirmation.

    Ids without foreign keys: the row outlives deployment, version and model.
    """

    __tablename__ = "weight_deletions"
    __table_args__ = (
        Index("ix_weight_deletions_model_id", "model_id"),
        Index("ix_weight_deletions_agent_id", "agent_id"),
    )

    deployment_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    agent_id: Mapped[uuid.UUID]
    project_id: Mapped[str | None]
    """The agent's project; None for a shared agent."""
    model_id: Mapped[uuid.UUID]
    version: Mapped[str]
    asked_at: Mapped[int]
    confirmed_at: Mapped[int | None]
    closed_at: Mapped[int | None]
    """When the model's owner stopped waiting for the confirmation."""
