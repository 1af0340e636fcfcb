"""changes by the database's clock"""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index("ix_audit_log_changed_ms", "audit_log", ["changed_ms"])


def downgrade() -> None:
    op.drop_index("ix_audit_log_changed_ms", table_name="audit_log")
