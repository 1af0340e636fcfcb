"""The catalog footprint of a model: the row is there exactly while the model is in the catalog."""

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.db import Table
from modelshare.server.registry.tables import ModelRow


class ShareRow(Table):
    """A model in the catalog. No row, no role, no featured flag, no count."""

    __tablename__ = "shares"
    __table_args__ = (
        CheckConstraint("role IN ('deployable', 'shared')", name="role"),
        CheckConstraint("role <> 'shared' OR shared_tier_endpoints > 0", name="shared_role_in_use"),
        Index("ix_shares_recent", "shared_at", "model_id"),
        Index("ix_shares_deployments", "deployment_count", "model_id"),
    )

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str]
    featured: Mapped[bool] = mapped_column(default=False)
    shared_at: Mapped[int]
    deployment_count: Mapped[int]
    """Active endpoints of all projects."""
    shared_tier_endpoints: Mapped[int]
    """Active endpoints on shared tiers."""

    model: Mapped[ModelRow] = relationship(lazy="raise")
