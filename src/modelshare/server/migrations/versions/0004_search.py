"""search"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from modelshare.server.sharing.search.terms import CatalogFacts, terms_of

revision = "0004"
down_revision = "0003"
BATCH = 1000
SQLITE = (
    """
    CREATE VIRTUAL TABLE catalog_index USING fts5(
        terms, content='catalog_entries', content_rowid='id', detail='none', columnsize=0,
        tokenize="ascii tokenchars '_'"
    )
    """,
    """
    CREATE TRIGGER catalog_entries_insert AFTER INSERT ON catalog_entries BEGIN
        INSERT INTO catalog_index (rowid, terms) VALUES (new.id, new.terms);
    END
    """,
    """
    CREATE TRIGGER catalog_entries_delete AFTER DELETE ON catalog_entries BEGIN
        INSERT INTO catalog_index (catalog_index, rowid, terms) VALUES ('delete', old.id, old.terms);
    END
    """,
    """
    CREATE TRIGGER catalog_entries_update AFTER UPDATE OF terms ON catalog_entries WHEN old.terms <> new.terms BEGIN
        INSERT INTO catalog_index (catalog_index, rowid, terms) VALUES ('delete', old.id, old.terms);
        INSERT INTO catalog_index (rowid, terms) VALUES (new.id, new.terms);
    END
    """,
)
POSTGRESQL = (
    """
    ALTER TABLE catalog_entries ADD COLUMN terms_vector tsvector NOT NULL
        GENERATED ALWAYS AS (array_to_tsvector(string_to_array(btrim(terms), ' '))) STORED
    """,
    "ALTER TABLE catalog_entries ALTER COLUMN terms_vector SET STATISTICS 1000",
    "CREATE INDEX ix_catalog_entries_terms_vector ON catalog_entries USING gin (terms_vector) WITH (fastupdate = off)",
)
SHARED = sa.text("""
    SELECT s.model_id, s.audience, s.role, s.deployment_count, m.project_id, p.slug AS owner, m.name, m.display_name,
        m.description, m.tags, m.license, v.version, v.format, v.architecture, v.family, v.parameters, v.context_length
    FROM shares s JOIN models m ON m.id = s.model_id JOIN projects p ON p.id = m.project_id
    LEFT JOIN model_versions v ON v.model_id = m.id AND v.is_latest
    ORDER BY s.shared_at, s.model_id
""").columns(model_id=sa.Uuid(), tags=sa.JSON())
"""In the order of their ids to be. A PostgreSQL driver hands `tags` over as text, too."""


def upgrade() -> None:
    op.create_table(
        "catalog_entries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("terms", sa.String(), nullable=False),
        sa.Column("deployment_count", sa.BigInteger(), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("context_length", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String().with_variant(sa.String(collation="C"), "postgresql"), nullable=False),
        sa.Column("family", sa.String(), nullable=True),
        sa.Column("license", sa.String(), nullable=True),
        sa.Column("architecture", sa.String(), nullable=True),
        sa.Column("format", sa.String(), nullable=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("tags", sa.String(), nullable=False),
        sa.Column("is_learned", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["shares.model_id"], name=op.f("fk_catalog_entries_model_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_entries")),
        sa.UniqueConstraint("model_id", name=op.f("uq_catalog_entries_model_id")),
    )
    for column in ("deployment_count", "parameters", "name"):
        op.create_index(f"ix_catalog_entries_{column}_id", "catalog_entries", [column, "id"])
    op.create_index(
        "ix_catalog_entries_unlearned",
        "catalog_entries",
        ["id"],
        sqlite_where=sa.text("NOT is_learned"),
        postgresql_where=sa.text("NOT is_learned"),
    )
    op.create_table(
        "catalog_words",
        sa.Column("form", sa.String(), nullable=False),
        sa.Column("word", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("form", "word", name=op.f("pk_catalog_words")),
    )
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)
    fill()


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE catalog_index")
    op.drop_table("catalog_words")
    op.drop_table("catalog_entries")


def fill() -> None:
    """An entry for each model that is shared already."""
    connection = op.get_bind()
    shown_to: dict[object, list[str]] = {}
    named = sa.text("SELECT model_id, project_id FROM share_projects").columns(model_id=sa.Uuid())
    for model_id, project_id in connection.execute(named):
        shown_to.setdefault(model_id, []).append(project_id)
    entries = sa.table("catalog_entries", *(sa.column(name) for name in COLUMNS), sa.column("model_id", sa.Uuid()))
    for rows in connection.execute(SHARED).partitions(BATCH):
        connection.execute(entries.insert(), [entry(row, shown_to.get(row.model_id, [])) for row in rows])


COLUMNS = (
    *("terms", "deployment_count", "parameters", "context_length", "name"),
    *("family", "license", "architecture", "format", "role", "tags", "is_learned"),
)


def entry(row: sa.Row[*tuple[Any, ...]], shown_to: list[str]) -> dict[str, object]:
    facts = CatalogFacts(
        project_id=row.project_id,
        owner=row.owner,
        audience=row.audience,
        shown_to=shown_to,
        role=row.role,
        name=row.name,
        display_name=row.display_name,
        description=row.description,
        tags=row.tags or [],
        license=row.license,
        format=row.format,
        architecture=row.architecture,
        family=row.family,
        parameters=row.parameters or 0,
        context_length=row.context_length or 0,
        deployment_count=row.deployment_count,
    )
    return {
        "model_id": row.model_id,
        "terms": f" {' '.join(terms_of(facts))} " if row.version else "",
        "deployment_count": row.deployment_count,
        "parameters": facts.parameters,
        "context_length": facts.context_length,
        "name": row.name.lower(),
        "family": row.family,
        "license": row.license,
        "architecture": row.architecture,
        "format": row.format,
        "role": row.role,
        "tags": "\n".join(dict.fromkeys(tag for tag in facts.tags if "\n" not in tag)),
        "is_learned": False,
    }
