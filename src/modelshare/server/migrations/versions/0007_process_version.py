"""process version"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("processes", sa.Column("version", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("processes", "version")
