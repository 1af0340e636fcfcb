"""Keeps connections to the lent PostgreSQL databases from one test to the next.

An application opens more than ten. Each is a process that starts with empty caches, which takes longer than what most
tests do in it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection, PGDialect_asyncpg
from sqlalchemy.util.concurrency import await_only

from modelshare.server.outages import DRIVER_ERRORS


class KeptConnections:
    """Of one event loop, to one server."""

    def __init__(self, server: str) -> None:
        self._port = int(server.rpartition(":")[2])
        self._loop = asyncio.get_running_loop()
        self._opened: dict[AsyncAdapt_asyncpg_connection, str] = {}
        """All, with what they were opened with."""
        self._set_up: set[AsyncAdapt_asyncpg_connection] = set()
        self._free: defaultdict[str, list[AsyncAdapt_asyncpg_connection]] = defaultdict(list)

    def pids(self) -> list[int]:
        """Their processes on the server."""
        drivers: list[Any] = [each._connection for free in self._free.values() for each in free if _works(each)]
        return [each.get_server_pid() for each in drivers]

    def open(self, dialect: PGDialect_asyncpg, *args: Any, **options: Any) -> Any:
        if options.get("port") != self._port or asyncio.get_running_loop() is not self._loop:
            return _connect(dialect, *args, **options)
        while free := self._free[str(options)]:
            connection = free.pop()
            if _works(connection) and _answers(connection):
                return connection
            self._forget(connection)
        connection = _connect(dialect, *args, **options)
        self._opened[connection] = str(options)
        return connection

    def close(self, dialect: PGDialect_asyncpg, connection: AsyncAdapt_asyncpg_connection) -> None:
        if connection in self._opened and _works(connection):
            self._free[self._opened[connection]].append(connection)
        else:
            self._forget(connection)
            _close(dialect, connection)

    def set_up(self, dialect: PGDialect_asyncpg) -> Callable[[Any], None]:
        set_up = _on_connect(dialect)

        def once(connection: AsyncAdapt_asyncpg_connection) -> None:
            if connection not in self._set_up:
                set_up(connection)
                self._set_up.add(connection)

        return once

    async def end(self) -> None:
        for free in self._free.values():
            for each in free:
                await each._connection.close()

    def _forget(self, connection: AsyncAdapt_asyncpg_connection) -> None:
        self._opened.pop(connection, None)
        self._set_up.discard(connection)


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of another class: `function`, a bound method, would not get its instance."""

    def method(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return method


def _works(connection: AsyncAdapt_asyncpg_connection) -> bool:
    driver: Any = connection._connection
    return not driver.is_closed() and not driver.is_in_transaction()


def _answers(connection: AsyncAdapt_asyncpg_connection) -> bool:
    """Asks it: the server may have ended it a moment ago, which the event loop does not know yet."""
    driver: Any = connection._connection
    try:
        await_only(driver.execute("SELECT 1"))
    except (*DRIVER_ERRORS, OSError):
        return False
    return True


_connect: Callable[..., Any] = PGDialect_asyncpg.connect
_close: Callable[..., Any] = PGDialect_asyncpg.do_close
_on_connect: Callable[..., Callable[[Any], None]] = PGDialect_asyncpg.on_connect


@asynccontextmanager
async def kept_connections(server: str) -> AsyncIterator[KeptConnections]:
    """For the duration of the block, what an engine of this loop would close is kept for the next one."""
    kept = KeptConnections(server)
    with pytest.MonkeyPatch.context() as patch:
        for name, method in (("connect", kept.open), ("do_close", kept.close), ("on_connect", kept.set_up)):
            patch.setattr(PGDialect_asyncpg, name, _as_method(method))
        yield kept
    await kept.end()
