"""Runs SQLite's statements on the event loop's thread: handing one to another thread takes longer than the statement.

The driver has a thread for each connection, and SQLAlchemy hands it four calls per statement. Here only a statement
that may wait for a lock is run there, else whoever holds the lock could not go on. After each statement, other tasks
get their turn, as with the driver. Servers in processes of their own use the driver as it is.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import aiosqlite

_WAITING = ("BEGIN IMMEDIATE", "PRAGMA journal_mode")
_in_thread: Callable[..., Awaitable[Any]] = aiosqlite.Connection._execute
_last: WeakKeyDictionary[aiosqlite.Connection, threading.Event] = WeakKeyDictionary()
"""Whether a connection's thread is done with its last call; the one that waited for it may have been cancelled."""


def use() -> None:
    setattr(aiosqlite.Connection, "_execute", _execute)  # noqa: B010 - no assignment to a method


@contextmanager
def in_threads() -> Iterator[None]:
    """For the duration of the block the driver is as it is, for tests of statements that take long."""
    setattr(aiosqlite.Connection, "_execute", _in_thread)  # noqa: B010
    try:
        yield
    finally:
        use()


async def _execute(connection: aiosqlite.Connection, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    statement = args[0] if args and isinstance(args[0], str) else ""
    if connection._connection is None or _is_at_work(connection) or statement.startswith(_WAITING):
        done = _last[connection] = threading.Event()

        def calling() -> Any:
            try:
                return call(*args, **options)
            finally:
                done.set()

        return await _in_thread(connection, calling)
    try:
        return call(*args, **options)
    finally:
        if statement:
            await asyncio.sleep(0)


def _is_at_work(connection: aiosqlite.Connection) -> bool:
    done = _last.get(connection)
    return done is not None and not done.is_set()
