"""Checks that no transaction is open during calls to storage, the network, password hashing or another connection.

Otherwise locks and a connection of the pool would be held as long as the call takes. `watched` raises an error in such
calls, and also records it for the test, since background work survives its errors.
"""

import asyncio
import contextlib
import inspect
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, ContextVar
from functools import wraps
from typing import Any

import aiohttp
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import passwords
from modelshare.server.db import Database
from modelshare.server.fleet.link import AgentLink
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.s3 import BucketStore

_sessions: ContextVar[tuple[weakref.ref[AsyncSession], ...]] = ContextVar("sessions", default=())
"""Sessions of this task and of its ancestors; their transactions may have ended."""
Opening = Callable[[Database], AbstractAsyncContextManager[AsyncSession]]


class CalledInTransactionError(AssertionError):
    """A slow function was called while a transaction was open."""


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Checks this process for the duration of the block; yields the list of findings."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for method in ("read", "write"):
            patch.setattr(Database, method, _noting(getattr(Database, method), found))
        for kind in (FolderStore, BucketStore):
            for name, method in vars(kind).items():
                if not name.startswith("_") and (inspect.iscoroutinefunction(method) or name == "local_copy"):
                    patch.setattr(kind, name, _outside(method, found))
        for owner, name in ((aiohttp.ClientSession, "_request"), (AgentLink, "send"), (passwords, "hash_password")):
            patch.setattr(owner, name, _outside(getattr(owner, name), found))
        yield found


async def as_another_request(work: Coroutine[Any, Any, None]) -> None:
    """Runs in a task that does not inherit this one's open transactions."""
    await asyncio.create_task(work, context=Context())


def _noting(open_session: Opening, found: list[str]) -> Opening:
    @asynccontextmanager
    async def noting(database: Database) -> AsyncIterator[AsyncSession]:
        _check(f"Database.{open_session.__name__}", found)
        async with open_session(database) as session:
            _sessions.set((*(each for each in _sessions.get() if _is_open(each)), weakref.ref(session)))
            yield session

    return noting


def _outside(slow: Callable[..., Any], found: list[str]) -> Callable[..., Any]:
    @wraps(slow)
    def checked(*args: Any, **options: Any) -> Any:
        _check(slow.__qualname__, found)
        return slow(*args, **options)

    return checked


def _check(what: str, found: list[str]) -> None:
    if any(map(_is_open, _sessions.get())):
        ours = [f for f in traceback.extract_stack() if "/modelshare/" in f.filename or "/tests/" in f.filename]
        where = " <- ".join(f"{frame.filename.rpartition('/src/')[2]}:{frame.lineno}" for frame in reversed(ours[:-2]))
        found.append(f"{what} while a transaction is open: {where}")
        raise CalledInTransactionError(found[-1])


def _is_open(reference: weakref.ref[AsyncSession]) -> bool:
    session = reference()
    return session is not None and session.in_transaction()
