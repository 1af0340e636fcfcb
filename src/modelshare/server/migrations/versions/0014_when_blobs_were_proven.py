"""when blobs were proven"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("blobs", sa.Column("proven_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("blobs", "proven_at")
