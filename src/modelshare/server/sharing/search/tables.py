"""The search index of the catalog: one row for each shared model."""

import uuid

from sqlalchemy import DDL, BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint, event, text
from sqlalchemy.orm import Mapped, mapped_column

from modelshare.server.db import Table

BEFORE_FORM = text("substr(terms, 1, 6) <> ' _form'")
"""Entries of an older form than `index.FORM`: those that began to be written before forms were counted."""


class CatalogEntryRow(Table):
    """What searching, counting and sorting need of a shared model. Written by `index`; pages join the other columns."""

    __tablename__ = "catalog_entries"
    __table_args__ = (
        UniqueConstraint("model_id"),
        Index("ix_catalog_entries_deployment_count_id", "deployment_count", "id"),
        Index("ix_catalog_entries_parameters_id", "parameters", "id"),
        Index("ix_catalog_entries_name_id", "name", "id"),
        Index(
            "ix_catalog_entries_unlearned",
            "id",
            sqlite_where=text("NOT is_learned"),
            postgresql_where=text("NOT is_learned"),
        ),
        Index("ix_catalog_entries_before_form1", "id", sqlite_where=BEFORE_FORM, postgresql_where=BEFORE_FORM),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    """Ascending by the time of sharing. An integer, since SQLite's index needs its row ID."""
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("shares.model_id", ondelete="CASCADE"))
    terms: Mapped[str]
    """The entry's form, then `terms.terms_of`, each between two spaces; without a latest version only the form."""
    deployment_count: Mapped[int]
    parameters: Mapped[int]
    """0: not known."""
    context_length: Mapped[int]
    """0: not known."""
    name: Mapped[str] = mapped_column(String().with_variant(String(collation="C"), "postgresql"))
    """In lower case; compared by code points, as in Python."""
    family: Mapped[str | None]
    license: Mapped[str | None]
    architecture: Mapped[str | None]
    format: Mapped[str | None]
    role: Mapped[str]
    tags: Mapped[str]
    """One per line."""
    is_learned: Mapped[bool] = mapped_column(default=False)
    """Whether its words are in `catalog_words`, if they belong there."""


class CatalogWordRow(Table):
    """A word of a model that is or was public, with each form by which a misspelling finds it."""

    __tablename__ = "catalog_words"

    form: Mapped[str] = mapped_column(primary_key=True)
    """The word, or the word with one letter removed."""
    word: Mapped[str] = mapped_column(primary_key=True)


_SQLITE = (
    # External content: the terms are stored once. No positions and sizes, since only the presence of terms matters.
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
_POSTGRESQL = (
    """
    ALTER TABLE catalog_entries ADD COLUMN terms_vector tsvector NOT NULL
        GENERATED ALWAYS AS (array_to_tsvector(string_to_array(btrim(terms), ' '))) STORED
    """,
    # The planner chooses between scanning and looking up by the frequency of terms, so it needs more statistics.
    "ALTER TABLE catalog_entries ALTER COLUMN terms_vector SET STATISTICS 1000",
    "CREATE INDEX ix_catalog_entries_terms_vector ON catalog_entries USING gin (terms_vector) WITH (fastupdate = off)",
)
INDEX_NAMES = ("catalog_index", "terms_vector", "ix_catalog_entries_terms_vector")
"""What either database has beside the tables that SQLAlchemy knows; names of SQLite's inner tables begin so too."""
for _dialect, _statements in (("sqlite", _SQLITE), ("postgresql", _POSTGRESQL)):
    for _statement in _statements:
        event.listen(CatalogEntryRow.__table__, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]
