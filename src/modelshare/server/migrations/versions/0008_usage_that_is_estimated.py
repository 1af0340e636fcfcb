"""usage that is estimated"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("usage", sa.Column("estimated", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("usage", "estimated")
