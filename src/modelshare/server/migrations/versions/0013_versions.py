"""versions: automatic latest, notes, deleted numbers, what was last shown; names without regard to case"""

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("name_key", sa.String(), nullable=True))
    # Of names that differ in case only the oldest model's gets the key: the others stay reachable by their exact names.
    op.execute(
        """
        UPDATE models SET name_key = lower(name) WHERE NOT EXISTS (
            SELECT 1 FROM models older
            WHERE older.project_id = models.project_id AND lower(older.name) = lower(models.name)
                AND (older.created_at < models.created_at
                    OR (older.created_at = models.created_at AND older.id < models.id))
        )
        """
    )
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.create_unique_constraint(batch_op.f("uq_models_project_id_name_key"), ["project_id", "name_key"])
    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.alter_column("make_latest", existing_type=sa.Boolean(), nullable=True)
        batch_op.add_column(sa.Column("latest_note", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("notes", sa.String(), nullable=True))
    # True was what nobody had to say.
    op.execute("UPDATE model_versions SET make_latest = NULL WHERE make_latest")
    op.create_table(
        "deleted_versions",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("manifest_digest", sa.String(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_deleted_versions_model_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "version", name=op.f("pk_deleted_versions")),
    )
    op.create_table(
        "last_shown",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("version_id", sa.Uuid(), nullable=True),
        sa.Column("versions", JSON, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_last_shown_model_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_versions.id"],
            name=op.f("fk_last_shown_version_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("model_id", "project_id", name=op.f("pk_last_shown")),
    )
    op.create_index("ix_last_shown_version_id", "last_shown", ["version_id"])
    _keep_what_others_have()


def _keep_what_others_have() -> None:
    """Endpoints of models that are not public now: until now they have followed, so they stay where they are."""
    connection = op.get_bind()
    versions, shares, endpoints, last = (
        sa.table(
            "model_versions",
            *(sa.column(name, sa.Uuid()) for name in ("id", "model_id")),
            sa.column("is_latest", sa.Boolean()),
            sa.column("manifest", sa.LargeBinary()),
        ),
        sa.table("shares", sa.column("model_id", sa.Uuid()), sa.column("audience", sa.String())),
        sa.table("endpoints", sa.column("model_id", sa.Uuid())),
        sa.table(
            "last_shown",
            *(sa.column(name, sa.Uuid()) for name in ("model_id", "version_id")),
            sa.column("project_id", sa.String()),
            sa.column("versions", JSON),
        ),
    )
    public = sa.select(shares.c.model_id).where(shares.c.audience == "public")
    statement = (
        sa.select(versions.c.model_id, versions.c.id, versions.c.is_latest)
        .where(versions.c.manifest.is_not(None), versions.c.model_id.not_in(public))
        .where(versions.c.model_id.in_(sa.select(endpoints.c.model_id).where(endpoints.c.model_id.is_not(None))))
    )
    kept: dict[uuid.UUID, dict[str, Any]] = {}
    for model_id, version_id, is_latest in connection.execute(statement):
        row = kept.setdefault(model_id, {"model_id": model_id, "project_id": "", "version_id": None, "versions": []})
        row["versions"].append(str(version_id))
        if is_latest:
            row["version_id"] = version_id
    if kept:
        connection.execute(last.insert(), list(kept.values()))


def downgrade() -> None:
    op.drop_index("ix_last_shown_version_id", table_name="last_shown")
    op.drop_table("last_shown")
    op.drop_table("deleted_versions")
    op.execute("UPDATE model_versions SET make_latest = TRUE WHERE make_latest IS NULL")
    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.drop_column("notes")
        batch_op.drop_column("latest_note")
        batch_op.alter_column("make_latest", existing_type=sa.Boolean(), nullable=False)
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_models_project_id_name_key"), type_="unique")
        batch_op.drop_column("name_key")
