"""SQLAlchemy's driver for SQLite, with one step of the connection's thread for each statement.

The original takes four: open a cursor, execute, fetch, close. Each wakes the thread and then the event loop, which
takes longer than most statements.
"""

import sqlite3
from typing import Any, Self

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
)


class _Statement:
    """A cursor for one statement; it has fetched all rows, and is closed, when the statement has been executed."""

    arraysize = 1

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, operation: str, parameters: Any = ()) -> None:
        await self._run("execute", operation, parameters)

    async def executemany(self, operation: str, parameters: Any) -> None:
        await self._run("executemany", operation, parameters)

    async def fetchall(self) -> list[Any]:
        return self._rows

    async def close(self) -> None:
        self._rows = []

    async def _run(self, method: str, *arguments: Any) -> None:
        def step() -> tuple[sqlite3.Cursor, list[Any]]:
            cursor: sqlite3.Cursor = self._connection._conn.cursor()  # noqa: SLF001 - aiosqlite offers no other way
            try:
                getattr(cursor, method)(*arguments)
                return cursor, cursor.fetchall() if cursor.description else []
            finally:
                cursor.close()

        done, self._rows = await self._connection._execute(step)  # noqa: SLF001 - likewise
        self.description, self.rowcount, self.lastrowid = done.description, done.rowcount, done.lastrowid


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    __slots__ = ()

    def _make_new_cursor(self, connection: Any) -> Any:
        return _Statement(connection)


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()

    _cursor_cls = _Cursor


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """The `module` of an engine."""

    def __init__(self) -> None:
        super().__init__(aiosqlite, sqlite3)

    def connect(self, *arguments: Any, **options: Any) -> _Connection:
        return _Connection(self, super().connect(*arguments, **options)._connection)  # noqa: SLF001 - likewise
