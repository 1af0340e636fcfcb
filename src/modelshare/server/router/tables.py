"""The ledger: what all processes together have used of a limit, and what each has borrowed of it."""

from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import Table


class LedgerRow(Table):
    """A limit of an endpoint, a key or a project. No foreign keys: rows are deleted when they have expired."""

    __tablename__ = "ledger"
    __table_args__ = (Index("ix_ledger_expires_at", "expires_at"),)

    subject: Mapped[str] = mapped_column(primary_key=True)
    """Such as `endpoint/<id>/tokens` or `key/<id>/2026-11`."""
    used: Mapped[float]
    updated_at: Mapped[float]
    """Seconds of the database's clock, like all times here."""
    loans: Mapped[dict[str, Any]]
    """[amount, total, expires_at, turn] by process; see `ledger_rules.Loan`."""
    warned: Mapped[int]
    """The threshold of a budget, in percent, that was told of last."""
    expires_at: Mapped[int]
    """When the row may be deleted, if it has not been used until then."""
