"""models registered in place"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.create_table(
        "registered_files",
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.String(), nullable=False),
        sa.Column("storage", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_registered_files_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_registered_files")),
    )
    with op.batch_alter_table("registered_files", schema=None) as batch_op:
        batch_op.create_index("ix_registered_files_storage", ["storage"], unique=False)

    with op.batch_alter_table("storages", schema=None) as batch_op:
        batch_op.add_column(sa.Column("credentials_of", sa.Uuid(), nullable=True))
        batch_op.drop_constraint(batch_op.f("uq_storages_project_id_kind_url_endpoint"), type_="unique")
        batch_op.create_unique_constraint(
            batch_op.f("uq_storages_project_id_kind_url_endpoint_writable"),
            ["project_id", "kind", "url", "endpoint", "writable"],
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_storages_credentials_of"), "storages", ["credentials_of"], ["id"], ondelete="SET NULL"
        )

    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pin", sa.String(), nullable=True))


def downgrade() -> None:
    """What lies in place is forgotten; there, it stays."""
    op.execute(
        "DELETE FROM version_files WHERE EXISTS (SELECT 1 FROM blobs WHERE blobs.project_id = version_files.project_id"
        " AND blobs.storage = version_files.storage AND blobs.sha256 = version_files.sha256 AND blobs.pin IS NOT NULL)"
    )
    op.execute("DELETE FROM blobs WHERE pin IS NOT NULL")
    op.execute("DELETE FROM storages WHERE NOT writable")
    with op.batch_alter_table("version_files", schema=None) as batch_op:
        batch_op.drop_column("pin")

    with op.batch_alter_table("storages", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_storages_credentials_of"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("uq_storages_project_id_kind_url_endpoint_writable"), type_="unique")
        batch_op.create_unique_constraint(
            batch_op.f("uq_storages_project_id_kind_url_endpoint"), ["project_id", "kind", "url", "endpoint"]
        )
        batch_op.drop_column("credentials_of")

    with op.batch_alter_table("registered_files", schema=None) as batch_op:
        batch_op.drop_index("ix_registered_files_storage")

    op.drop_table("registered_files")
