"""The database: differences between the dialects, locks, notifications, and the only commit.

A unit of work is `async with database.write() as session`: it commits when the block ends, rolls back when it raises.
On SQLite a write takes the write lock at its start (BEGIN IMMEDIATE) on the one writing connection: two writers never
deadlock. On PostgreSQL it runs at READ COMMITTED and takes row locks, with `for_update` and others below, in a fixed
order: project, model, endpoint, agent, then anything else; rows of one table by their IDs. On both, all statements of a
read see the same state of the data.
"""

import asyncio
import contextlib
import math
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    MetaData,
    Select,
    cast,
    event,
    extract,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from modelshare import private_files
from modelshare.server import outages
from modelshare.server.background import Loop, wait

log = structlog.get_logger()
Row = TypeVar("Row")
Listener = Callable[[str], Awaitable[object] | None]
"""Drops cached data. May return an awaitable for the rest of the work. Must not raise."""
Effect = Callable[[AsyncSession, str], Awaitable[None]]
"""Updates data derived from the subject of a notification, in the transaction that changed it."""
Guard = Callable[[AsyncSession], Awaitable[None]]
"""Raises an error if this process must not write."""

CHANNEL = "modelshare"
"""The one PostgreSQL NOTIFY channel; payloads read `topic:subject`."""
CONFIRM_TOPIC = "confirm"
"""The last notification of a transaction: its receivers have received all others. The subject is an audit entry's
ID."""
_PENDING = "notifications"
_CONNECT_SECONDS = 5.0
"""Time limit for connecting to the database."""
_IDLE_MS = 10_000
"""PostgreSQL ends a transaction that does nothing for so long: its process was stopped, and others wait for its
locks."""
_RETRY_SECONDS = 1.0
_PULSE_SECONDS = 10.0
"""How often the connection for notifications is checked."""
_UNIX_EPOCH_DAY = 2_440_587.5
"""1970-01-01 in SQLite's julianday."""
_RARER = 3
"""On SQLite, by this factor."""
_MAPPED = f"mmap_size={2**31 - 2**16}"
"""Uses address space, not memory. Catalog searches read scattered rows, and a system call for each is expensive."""
_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")

JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Table(DeclarativeBase):
    """The base class of all tables. Constraint names are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {int: BigInteger(), dict[str, Any]: JsonColumn, list[str]: JsonColumn}  # noqa: RUF012 - SQLAlchemy reads it from the class


class Database:
    """Engines, sessions and notifications of one process."""

    def __init__(self, url: str) -> None:
        """`url`: `sqlite+aiosqlite:///path` or `postgresql+asyncpg://...`."""
        self.url: URL = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._reader = _sqlite_engine(self.url, "BEGIN", pool_size=4)
            self._writer = _sqlite_engine(self.url, "BEGIN IMMEDIATE", pool_size=1)
        else:
            limits = {"idle_in_transaction_session_timeout": str(_IDLE_MS)}
            connecting = {"timeout": _CONNECT_SECONDS, "server_settings": limits}
            self._writer = create_async_engine(
                self.url, pool_size=8, max_overflow=8, pool_pre_ping=True, connect_args=connecting
            )
            _replace_what_does_not_answer(self._writer.dialect)
            # The same pool. At READ COMMITTED, each statement of a read would see a different state.
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")
        self._read_session = async_sessionmaker(self._reader, expire_on_commit=False)
        self._write_session = async_sessionmaker(self._writer, expire_on_commit=False)
        self._listeners: dict[str, list[Listener]] = defaultdict(list)
        self._effects: dict[str, list[Effect]] = defaultdict(list)
        self._guard: Guard | None = None
        self._dropping = set[asyncio.Future[object]]()
        self._listening = Loop("listen to the database", self._listen, every=0, retry=_RETRY_SECONDS, slow=math.inf)
        self._heard_once = asyncio.Event()

    def look_every(self, seconds: float) -> float:
        """How often to look for changes whose notification may have been lost. That is rare on SQLite, where only one
        process makes changes, apart from commands of the operator."""
        return seconds * _RARER if self.is_sqlite else seconds

    @property
    def engine(self) -> AsyncEngine:
        """The writing engine, for migrations."""
        return self._writer

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A read-only session without locks, in which all statements see the same state."""
        async with self._explained(), self._read_session() as session:
            yield session

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction. At the end of the block, its effects run, it is committed, and its notifications are sent."""
        async with self._explained(), self._write_session() as session:
            pending: list[tuple[str, str]] = []
            session.info[_PENDING] = pending
            yield session
            await self._run_effects(session, pending)
            if self._guard is not None:
                await self._guard(session)
            pending.sort(key=lambda told: told[0] == CONFIRM_TOPIC)
            if pending and not self.is_sqlite:
                payloads = [f"{topic}:{subject}" for topic, subject in pending]
                await session.execute(_NOTIFY, {"channel": CHANNEL, "payloads": payloads})
            await session.commit()
        for topic, subject in pending:
            self._dispatch(topic, subject)

    def guard_writes(self, guard: Guard) -> None:
        """Runs `guard(session)` in every transaction before it commits."""
        self._guard = guard

    def before_commit(self, topic: str, effect: Effect) -> None:
        """Runs `effect(session, subject)` at the end of every transaction that notifies of this topic, once per
        subject.

        So code that changes data need not know what is derived from it, and cannot forget to update it.
        """
        self._effects[topic].append(effect)

    def subscribe(self, topic: str, listener: Listener) -> None:
        """Calls `listener(subject)` on the event loop after every committed `notify`, of any process on PostgreSQL.

        A subject of "*" means that notifications may have been missed: drop whatever is cached.
        """
        self._listeners[topic].append(listener)

    def drop_everything(self) -> None:
        """Makes every listener drop all cached data, since notifications may have been lost."""
        for topic in self._listeners.keys() - {CONFIRM_TOPIC}:
            self._dispatch(topic, "*")

    async def dropped(self) -> None:
        """Waits until all listeners have processed the notifications received so far."""
        if self._dropping:
            await asyncio.wait(self._dropping)

    async def start(self) -> None:
        """Starts listening to the other processes (PostgreSQL)."""
        if not self.is_sqlite:
            await self._listening.start()
            await self._heard_once.wait()

    async def close(self) -> None:
        await self._listening.stop()
        for work in self._dropping:
            work.cancel()
        await asyncio.gather(*self._dropping, return_exceptions=True)
        await self._writer.dispose()
        await self._reader.dispose()

    @contextlib.asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """Lets the guard say why a table or column is missing."""
        try:
            yield
        except DBAPIError as error:
            if self._guard is not None and outages.outage_of(error) is outages.Outage.DATABASE_UNFIT:
                async with self._read_session() as session:
                    await self._guard(session)
            raise

    async def _run_effects(self, session: AsyncSession, pending: list[tuple[str, str]]) -> None:
        """Runs the effects, including those of notifications by effects; each once per subject."""
        done: set[tuple[str, Effect]] = set()
        while (
            due := {(subject, effect) for topic, subject in pending for effect in self._effects.get(topic, ())} - done
        ):
            for subject, effect in sorted(due, key=lambda each: each[0]):  # so that rows are locked in a fixed order
                await effect(session, subject)
            done |= due

    def _dispatch(self, topic: str, subject: str) -> None:
        for listener in self._listeners.get(topic, ()):
            rest = listener(subject)
            if rest is not None:
                work = asyncio.ensure_future(rest)
                self._dropping.add(work)
                work.add_done_callback(self._dropping.discard)

    async def _listen(self) -> None:
        """Listens until the connection is lost."""
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, self._received)
            if self._heard_once.is_set():
                self.drop_everything()
                self._dispatch(CONFIRM_TOPIC, "*")
            self._heard_once.set()
            await wait(lost, _PULSE_SECONDS)
            while not lost.is_set():
                # A connection may be dead without an error: notifications would then be lost.
                await connection.execute("SELECT 1", timeout=_CONNECT_SECONDS)
                await wait(lost, _PULSE_SECONDS)
        finally:
            connection.terminate()

    def _received(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        topic, _, subject = str(payload).partition(":")
        self._dispatch(topic, subject)


def notify(session: AsyncSession, topic: str, subject: str) -> None:
    """Notifies all processes of a change, if this transaction commits."""
    pending: list[tuple[str, str]] = session.info[_PENDING]
    if (topic, subject) not in pending:
        pending.append((topic, subject))


def for_update(statement: Select[Row], of: type[Table] | None = None) -> Select[Row]:
    """Locks the rows until the transaction ends, and refreshes them. On SQLite, a write holds the only lock anyway.

    Rows that refer to them can still be written: a foreign key's check waits only for deletions.
    `of`: the table whose rows are locked, if the statement joins others.
    """
    return statement.with_for_update(key_share=True, of=of).execution_options(populate_existing=True)


def for_key_share(statement: Select[Row], of: type[Table] | None = None, *, wait: bool = True) -> Select[Row]:
    """Prevents the deletion of the rows until the transaction ends, like a foreign key that refers to them.

    A deletion cascades to referring rows in an undefined order, so lock the parent like this before writing several of
    them. `wait=False` skips rows that are being deleted, and so can be used after any other lock.
    """
    return statement.with_for_update(read=True, key_share=True, of=of, skip_locked=not wait)


def skip_locked(statement: Select[Row]) -> Select[Row]:
    """Locks the rows that no other transaction has locked, for workers on a queue."""
    return statement.with_for_update(key_share=True, skip_locked=True).execution_options(populate_existing=True)


def scoped_to(table: type[Row], project_id: str) -> Select[Row]:
    """Selects a tenant's rows, so that other tenants' rows are treated like missing ones."""
    return select(table).where(table.project_id == project_id)  # type: ignore[attr-defined] # every tenant's table has it


def any_tenant(table: type[Row]) -> type[Row]:
    """The table with the rows of all projects: for work of the platform, or for rows that the caller may access by
    other means, such as a token or a model that they may see.
    """
    return table


def capped_count(statement: Select[*tuple[Any, ...]], limit: int) -> Select[int]:
    """The number of rows, counted up to `limit`, so that it is fast for large tables."""
    return select(func.count()).select_from(statement.limit(limit).subquery())


async def advisory_lock(session: AsyncSession, what: str) -> None:
    """Locks the name `what` until the transaction ends, for all processes. On SQLite, writes are serialized anyway."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtext(what))))


def upsert(session: AsyncSession, table: type[Table]) -> SqliteInsert | PostgresInsert:
    """An INSERT that supports ON CONFLICT DO UPDATE: a single statement, without a race between check and write."""
    return (sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgres_insert)(table)


def now_ms(session: AsyncSession) -> ColumnElement[int]:
    """Unix milliseconds of the database's clock, which all processes share; advances within a transaction."""
    if session.get_bind().dialect.name == "sqlite":
        return cast((func.julianday("now") - _UNIX_EPOCH_DAY) * 86_400_000, BigInteger)
    return cast(extract("epoch", func.clock_timestamp()) * 1000, BigInteger)


def is_unique_violation(error: DBAPIError) -> bool:
    """Whether a write violated a unique constraint: a concurrent request took the name first."""
    return "UNIQUE constraint failed" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "23505"


class _SqliteConnection(sqlite3.Connection):
    """A connection that releases its lock when it is closed.

    If it is closed during an unfinished statement, as after a cancellation, SQLite keeps it open until the statement is
    garbage-collected (https://www.sqlite.org/c3ref/close.html), and with it the transaction and the write lock.
    """

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self.in_transaction:
                self.rollback()
        super().close()


def _replace_what_does_not_answer(dialect: Dialect) -> None:
    """A connection whose ping fails in whatever way is replaced.

    SQLAlchemy does so only for one that is closed, but a connection that the server is just ending is not closed yet.
    """
    ping = dialect.do_ping

    def do_ping(dbapi_connection: DBAPIConnection) -> bool:
        try:
            return ping(dbapi_connection)
        except Exception:  # noqa: BLE001 - a new connection shows what is wrong
            return False

    dialect.do_ping = do_ping  # type: ignore[method-assign]


def _sqlite_engine(url: URL, begin: str, pool_size: int) -> AsyncEngine:
    connecting = {"timeout": 30, "factory": _SqliteConnection}
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=60, connect_args=connecting)

    @event.listens_for(engine.sync_engine, "do_connect")
    def _keep_private(*_: object) -> None:
        # SQLite makes the file world-readable, and gives its auxiliary files the same mode.
        path = Path(url.database or "")
        private_files.touch(path)
        for beside in (path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            with contextlib.suppress(FileNotFoundError):
                private_files.tighten(beside)

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        # Disables the driver's transactions, which would start late and without the write lock.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000", _MAPPED):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
