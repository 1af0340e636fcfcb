"""featured"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index(
        "ix_shares_featured",
        "shares",
        ["shared_at"],
        sqlite_where=sa.text("featured = 1"),
        postgresql_where=sa.text("featured"),
    )


def downgrade() -> None:
    op.drop_index("ix_shares_featured", "shares")
