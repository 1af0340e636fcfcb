"""SQL that is compiled once for all tests: each has a database of its own, and compiling was half of what one cost."""

from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.engine import Engine
from sqlalchemy.util import LRUCache

_COMPILED = LRUCache[Any, Any](10_000)


def share() -> None:
    """From now on all engines share what they compile.

    SQLAlchemy looks it up by statement and dialect, and every engine has a dialect of its own: those of one kind are
    made equal here. They are, as all tests have the same version of each database.
    """
    for dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):
        setattr(dialect, "__eq__", lambda self, other: type(self) is type(other))  # noqa: B010 - no assignment to a method
        setattr(dialect, "__hash__", lambda self: hash(type(self)))  # noqa: B010 - likewise
    initialize = Engine.__init__

    def initialize_sharing(self: Engine, *args: Any, **options: Any) -> None:
        initialize(self, *args, **options)
        self._compiled_cache = _COMPILED

    setattr(Engine, "__init__", initialize_sharing)  # noqa: B010 - likewise
