"""signers, signatures of versions, and who requires them"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "signers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_signers_project_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signers")),
        sa.UniqueConstraint("project_id", "key_id", name=op.f("uq_signers_project_id_key_id")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_signers_project_id_name")),
    )
    with op.batch_alter_table("signers", schema=None) as batch_op:
        batch_op.create_index("ix_signers_key_id", ["key_id"], unique=False)

    op.create_table(
        "version_signatures",
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_version_signatures_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_version_signatures")),
    )
    with op.batch_alter_table("version_signatures", schema=None) as batch_op:
        batch_op.create_index("ix_version_signatures_key_id", ["key_id"], unique=False)

    with op.batch_alter_table("endpoints", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tier_signers", sa.String(), nullable=True))

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("signature_state", sa.String(), server_default="none", nullable=False))
        batch_op.add_column(sa.Column("signer", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("signature_key", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("signature_problem", sa.String(), nullable=True))
        batch_op.create_check_constraint(
            batch_op.f("ck_model_versions_signature_state"),
            "signature_state IN ('none', 'valid', 'unknown_signer', 'invalid')",
        )
        batch_op.create_check_constraint(
            batch_op.f("ck_model_versions_valid_has_signer"), "(signature_state = 'valid') = (signer IS NOT NULL)"
        )

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("require_signature", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(
            sa.Column(
                "allowed_signers",
                sa.JSON(none_as_null=True).with_variant(
                    postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql"
                ),
                server_default="[]",
                nullable=False,
            )
        )


def downgrade() -> None:
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_column("allowed_signers")
        batch_op.drop_column("require_signature")

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_model_versions_valid_has_signer"), type_="check")
        batch_op.drop_constraint(batch_op.f("ck_model_versions_signature_state"), type_="check")
        batch_op.drop_column("signature_problem")
        batch_op.drop_column("signature_key")
        batch_op.drop_column("signer")
        batch_op.drop_column("signature_state")

    with op.batch_alter_table("endpoints", schema=None) as batch_op:
        batch_op.drop_column("tier_signers")

    with op.batch_alter_table("version_signatures", schema=None) as batch_op:
        batch_op.drop_index("ix_version_signatures_key_id")

    op.drop_table("version_signatures")
    with op.batch_alter_table("signers", schema=None) as batch_op:
        batch_op.drop_index("ix_signers_key_id")

    op.drop_table("signers")
