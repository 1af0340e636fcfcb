"""limits that hold for all processes together, limits and budgets of keys, budgets of projects"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027"
down_revision = "0026"
_OF_KEYS = ("requests_per_minute", "tokens_per_minute", "monthly_token_budget")


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column(
            "loans",
            sa.JSON(none_as_null=True).with_variant(
                postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
            ),
            nullable=False,
        ),
        sa.Column("warned", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_ledger")),
    )
    op.create_index("ix_ledger_expires_at", "ledger", ["expires_at"], unique=False)
    for name in _OF_KEYS:
        op.add_column("keys", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("projects", sa.Column("monthly_budget", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("projects", "monthly_budget")
    for name in reversed(_OF_KEYS):
        op.drop_column("keys", name)
    op.drop_table("ledger")
