"""given-up jobs, closed releases"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "given_up_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("given_up_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_given_up_jobs")),
        sa.UniqueConstraint("kind", "subject", name=op.f("uq_given_up_jobs_kind_subject")),
    )
    op.create_index("ix_given_up_jobs_given_up_at", "given_up_jobs", ["given_up_at"])
    op.add_column("releases", sa.Column("closed_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("releases", "closed_at")
    op.drop_index("ix_given_up_jobs_given_up_at", table_name="given_up_jobs")
    op.drop_table("given_up_jobs")
