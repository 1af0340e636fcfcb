"""oci artifacts; models whose names differ in case only are told"""

import sqlalchemy as sa
import structlog
from alembic import op

revision = "0021"
down_revision = "0020"

log = structlog.get_logger()


def upgrade() -> None:
    op.create_table(
        "oci_artifacts",
        sa.Column("version_id", sa.Uuid(), nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=True),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("config", sa.LargeBinary(), nullable=True),
        sa.Column("config_digest", sa.String(), nullable=True),
        sa.Column("refusal", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_oci_artifacts_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "file", name=op.f("pk_oci_artifacts")),
    )
    op.create_index("ix_oci_artifacts_digest", "oci_artifacts", ["digest"])
    _hand_on_free_names()
    _tell_of_twins()


def _hand_on_free_names() -> None:
    """To the oldest of the models that go without, where whoever had the name was renamed or deleted since 0013."""
    op.execute(
        """
        UPDATE models SET name_key = lower(name) WHERE name_key IS NULL AND NOT EXISTS (
            SELECT 1 FROM models other
            WHERE other.project_id = models.project_id AND other.id <> models.id
                AND (other.name_key = lower(models.name)
                    OR (other.name_key IS NULL AND lower(other.name) = lower(models.name)
                        AND (other.created_at < models.created_at
                            OR (other.created_at = models.created_at AND other.id < models.id))))
        )
        """
    )


def _tell_of_twins() -> None:
    """They stay as they are, each under its exact name; only its owner can say what one of them is to be called."""
    statement = """
        SELECT projects.slug, models.name, other.name FROM models
        JOIN projects ON projects.id = models.project_id
        JOIN models other ON other.project_id = models.project_id AND other.name_key = lower(models.name)
        WHERE models.name_key IS NULL ORDER BY projects.slug, models.name
    """
    for project, name, other in op.get_bind().execute(sa.text(statement)):
        log.warning(
            "two models differ in case only, and OCI clients can name one of them: rename one",
            models=[f"{project}/{other}", f"{project}/{name}"],
        )


def downgrade() -> None:
    op.drop_index("ix_oci_artifacts_digest", table_name="oci_artifacts")
    op.drop_table("oci_artifacts")
