"""Tokens by which clients of other forms read what an endpoint runs."""

import uuid

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.db import Table
from modelshare.server.endpoints.tables import EndpointRow


class EndpointTokenRow(Table):
    """The one token of an endpoint. It goes with the endpoint."""

    __tablename__ = "endpoint_tokens"

    endpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[int]
    created_by: Mapped[str]
    """As the audit log names who made it."""

    endpoint: Mapped[EndpointRow] = relationship(lazy="raise")
