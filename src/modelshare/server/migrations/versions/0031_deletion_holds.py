"""holds on deletions, while a backup is made"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0029"


def upgrade() -> None:
    op.create_table(
        "deletion_holds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletion_holds")),
    )


def downgrade() -> None:
    op.drop_table("deletion_holds")
