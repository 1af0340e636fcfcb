"""storages of projects; blobs, files, uploads and garbage say in which storage they are"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")
CURRENT = sa.text("writable AND replaced_at IS NULL")


def _storage() -> sa.Column[str]:
    return sa.Column("storage", sa.String(), nullable=False, server_default="platform")


def upgrade() -> None:
    op.create_table(
        "storages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=True),
        sa.Column("addressing", sa.String(), nullable=False),
        sa.Column("credentials", sa.String(), nullable=True),
        sa.Column("key_hint", sa.String(), nullable=True),
        sa.Column("role_arn", sa.String(), nullable=True),
        sa.Column("direct", sa.Boolean(), nullable=False),
        sa.Column("writable", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("replaced_at", sa.BigInteger(), nullable=True),
        sa.Column("checked_at", sa.BigInteger(), nullable=True),
        sa.Column("checks", JSON, nullable=False),
        sa.CheckConstraint("kind IN ('bucket', 'held')", name=op.f("ck_storages_kind")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_storages_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storages")),
        sa.UniqueConstraint(
            "project_id", "kind", "url", "endpoint", name=op.f("uq_storages_project_id_kind_url_endpoint")
        ),
    )
    op.create_index(
        "uq_storages_current",
        "storages",
        ["project_id"],
        unique=True,
        sqlite_where=CURRENT,
        postgresql_where=CURRENT,
    )
    for table in ("uploads", "garbage"):
        op.add_column(table, _storage())
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.drop_index("ix_version_files_blob")
        batch_op.drop_constraint("fk_version_files_project_id", type_="foreignkey")
        batch_op.add_column(_storage())
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.add_column(_storage())
        batch_op.add_column(sa.Column("pin", sa.String(), nullable=True))
        batch_op.drop_constraint("pk_blobs", type_="primary")
        batch_op.create_primary_key("pk_blobs", ["project_id", "sha256", "storage"])
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.create_foreign_key(
            "fk_version_files_project_id",
            "blobs",
            ["project_id", "storage", "sha256"],
            ["project_id", "storage", "sha256"],
        )
        batch_op.create_index("ix_version_files_blob", ["project_id", "storage", "sha256"], unique=False)


def downgrade() -> None:
    """What lies in a project's own storage is forgotten; there, it stays."""
    for table in ("version_files", "blobs", "garbage"):
        op.execute(f"DELETE FROM {table} WHERE storage <> 'platform'")
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.drop_index("ix_version_files_blob")
        batch_op.drop_constraint("fk_version_files_project_id", type_="foreignkey")
        batch_op.drop_column("storage")
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.drop_constraint("pk_blobs", type_="primary")
        batch_op.create_primary_key("pk_blobs", ["project_id", "sha256"])
        batch_op.drop_column("pin")
        batch_op.drop_column("storage")
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.create_foreign_key(
            "fk_version_files_project_id", "blobs", ["project_id", "sha256"], ["project_id", "sha256"]
        )
        batch_op.create_index("ix_version_files_blob", ["project_id", "sha256"], unique=False)
    for table in ("garbage", "uploads"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("storage")
    op.drop_index("uq_storages_current", table_name="storages")
    op.drop_table("storages")
