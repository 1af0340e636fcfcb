"""Shares compiled SQL between tests: each has its own database, and compiling took half of a test's time."""

from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.engine import Engine
from sqlalchemy.util import LRUCache

_COMPILED = LRUCache[Any, Any](10_000)


def share() -> None:
    """Makes all engines share one cache of compiled statements.

    SQLAlchemy's cache keys include the dialect, and every engine has its own. Therefore dialects of the same kind are
    made equal here, which is correct since all tests use the same version of each database.
    """
    for dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):
        setattr(dialect, "__eq__", lambda self, other: type(self) is type(other))  # noqa: B010 - no assignment to a method
        setattr(dialect, "__hash__", lambda self: hash(type(self)))  # noqa: B010 - likewise
    initialize = Engine.__init__

    def initialize_sharing(self: Engine, *args: Any, **options: Any) -> None:
        initialize(self, *args, **options)
        self._compiled_cache = _COMPILED

    setattr(Engine, "__init__", initialize_sharing)  # noqa: B010 - likewise
