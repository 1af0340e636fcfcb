"""links of one agent to several processes"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.create_table(
        "agent_links",
        sa.Column("token", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column("process", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("fk_agent_links_agent_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_agent_links")),
        sa.UniqueConstraint("agent_id", "process", name=op.f("uq_agent_links_agent_id_process")),
    )
    op.create_index("ix_agent_links_address", "agent_links", ["address"], unique=False)

    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.add_column(sa.Column("instance", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("expected_until", sa.BigInteger(), nullable=True))

    with op.batch_alter_table("processes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_leaving", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("processes", schema=None) as batch_op:
        batch_op.drop_column("is_leaving")

    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_column("expected_until")
        batch_op.drop_column("instance")

    op.drop_index("ix_agent_links_address", table_name="agent_links")
    op.drop_table("agent_links")
