"""Versions as OCI clients see them."""

import uuid

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import Table


class OciArtifactRow(Table):
    """A version's manifest and config. Stored because users pin digests, which a later release must not change."""

    __tablename__ = "oci_artifacts"
    __table_args__ = (Index("ix_oci_artifacts_digest", "digest"),)

    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    file: Mapped[str] = mapped_column(primary_key=True)
    """Selects one of the version's models; empty for all of the version's files."""
    manifest: Mapped[bytes | None]
    """None if the version cannot be an artifact, for the reason in `refusal`."""
    digest: Mapped[str | None]
    config: Mapped[bytes | None]
    config_digest: Mapped[str | None]
    refusal: Mapped[str | None]
