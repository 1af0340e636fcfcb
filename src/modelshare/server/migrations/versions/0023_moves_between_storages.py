"""moves between storages"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.create_table(
        "storage_moves",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.String(), nullable=False),
        sa.Column("version_name", sa.String(), nullable=False),
        sa.Column("storage", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('moving', 'done', 'failed', 'cancelled')", name=op.f("ck_storage_moves_state")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_storage_moves_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_storage_moves_version_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_moves")),
    )
    with op.batch_alter_table("storage_moves", schema=None) as batch_op:
        batch_op.create_index("ix_storage_moves_project_id_id", ["project_id", "id"], unique=False)
        batch_op.create_index(
            "uq_storage_moves_moving",
            ["version_id"],
            unique=True,
            sqlite_where=sa.text("state = 'moving'"),
            postgresql_where=sa.text("state = 'moving'"),
        )

    op.create_table(
        "storage_move_files",
        sa.Column("move_id", sa.Uuid(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("multipart_id", sa.String(), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("is_copied", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["move_id"], ["storage_moves.id"], name=op.f("fk_storage_move_files_move_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("move_id", "sha256", name=op.f("pk_storage_move_files")),
    )
    with op.batch_alter_table("garbage", schema=None) as batch_op:
        batch_op.add_column(sa.Column("not_before", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("garbage", schema=None) as batch_op:
        batch_op.drop_column("not_before")

    op.drop_table("storage_move_files")
    with op.batch_alter_table("storage_moves", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_storage_moves_moving",
            sqlite_where=sa.text("state = 'moving'"),
            postgresql_where=sa.text("state = 'moving'"),
        )
        batch_op.drop_index("ix_storage_moves_project_id_id")

    op.drop_table("storage_moves")
