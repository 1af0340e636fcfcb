"""usage by tier and version with its cost, written once; keys that are suspended"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.add_column("keys", sa.Column("suspended_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "usage_writers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_writers")),
    )
    for name in ("tier", "version"):
        op.add_column("usage", sa.Column(name, sa.String(), server_default="", nullable=False))
    for name in ("cost_micros", "cost_rest"):
        op.add_column("usage", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("usage", sa.Column("of_endpoint_id", sa.Uuid(), nullable=True))
    op.create_index("ix_usage_model_id_day", "usage", ["model_id", "day"], unique=False)
    op.drop_index("ix_usage_model_id", "usage")


def downgrade() -> None:
    op.create_index("ix_usage_model_id", "usage", ["model_id"], unique=False)
    op.drop_index("ix_usage_model_id_day", "usage")
    for name in ("of_endpoint_id", "cost_rest", "cost_micros", "version", "tier"):
        op.drop_column("usage", name)
    op.drop_table("usage_writers")
    op.drop_column("keys", "suspended_at")
