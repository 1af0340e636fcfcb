"""which secret the platform has, and by which join key an agent came"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "secret",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secret")),
    )
    op.add_column("agents", sa.Column("join_key_id", sa.Uuid(), nullable=True))
    op.create_index("ix_agents_join_key_id", "agents", ["join_key_id"])


def downgrade() -> None:
    op.drop_index("ix_agents_join_key_id", table_name="agents")
    op.drop_column("agents", "join_key_id")
    op.drop_table("secret")
