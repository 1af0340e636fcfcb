"""digests of completed uploads"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    either = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
    op.add_column("uploads", sa.Column("digests", either, nullable=True))


def downgrade() -> None:
    op.drop_column("uploads", "digests")
