"""which versions may use the schema; catalog entries of an older form are found"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
WITHOUT_FORM = sa.text("substr(terms, 1, 6) <> ' _form'")


def upgrade() -> None:
    op.create_table(
        "schema_compatibility",
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("oldest_compatible", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_schema_compatibility")),
    )
    op.create_index(
        "ix_catalog_entries_before_form1",
        "catalog_entries",
        ["id"],
        sqlite_where=WITHOUT_FORM,
        postgresql_where=WITHOUT_FORM,
    )


def downgrade() -> None:
    op.drop_index("ix_catalog_entries_before_form1", table_name="catalog_entries")
    op.drop_table("schema_compatibility")
