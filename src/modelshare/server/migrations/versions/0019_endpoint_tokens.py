"""endpoint tokens"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "endpoint_tokens",
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["endpoints.id"], name=op.f("fk_endpoint_tokens_endpoint_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("endpoint_id", name=op.f("pk_endpoint_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_endpoint_tokens_token_hash")),
    )


def downgrade() -> None:
    op.drop_table("endpoint_tokens")
