"""endpoint tokens, and versions that are put together commit by commit"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    op.create_table(
        "endpoint_tokens",
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["endpoints.id"], name=op.f("fk_endpoint_tokens_endpoint_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("endpoint_id", name=op.f("pk_endpoint_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_endpoint_tokens_token_hash")),
    )
    op.create_table(
        "hub_drafts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("tree", JSON, nullable=False),
        sa.Column("announced", JSON, nullable=False),
        sa.Column("commit", sa.String(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_hub_drafts_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hub_drafts")),
        sa.UniqueConstraint("project_id", "name_key", "branch", name=op.f("uq_hub_drafts_project_id_name_key_branch")),
    )
    op.create_index("ix_hub_drafts_expires_at", "hub_drafts", ["expires_at"])
    op.create_table(
        "staged_files",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("storage", sa.String(), server_default="platform", nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("multipart_id", sa.String(), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_staged_files_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "sha256", "storage", "name_key", name=op.f("pk_staged_files")),
        sa.UniqueConstraint("id", name=op.f("uq_staged_files_id")),
    )
    op.create_index("ix_staged_files_expires_at", "staged_files", ["expires_at"])
    op.create_table(
        "hub_xorbs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("generation", sa.String(), nullable=False),
        sa.Column("xorb", sa.String(), nullable=False),
        sa.Column("storage", sa.String(), server_default="platform", nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("multipart_id", sa.String(), nullable=False),
        sa.Column("is_stored", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_hub_xorbs_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hub_xorbs")),
        sa.UniqueConstraint(
            *("project_id", "name_key", "generation", "xorb"),
            name=op.f("uq_hub_xorbs_project_id_name_key_generation_xorb"),
        ),
    )
    op.create_index("ix_hub_xorbs_expires_at", "hub_xorbs", ["expires_at"])


def downgrade() -> None:
    op.drop_table("hub_xorbs")
    op.drop_table("staged_files")
    op.drop_table("hub_drafts")
    op.drop_table("endpoint_tokens")
