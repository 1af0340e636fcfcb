"""The database: both dialects' differences, locks, notifications, and the only commit.

A unit of work is `async with database.write() as session`: it commits when the block ends, rolls back when it raises.
On SQLite a write takes the write lock at its start (BEGIN IMMEDIATE) on the one writing connection: two writers never
deadlock. On PostgreSQL it runs at READ COMMITTED and takes row locks by `locked`, in one order: model, endpoint, agent,
then anything else.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import JSON, BigInteger, MetaData, Select, TableValuedAlias, event, func, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute

log = structlog.get_logger()
Row = TypeVar("Row")
Listener = Callable[[str], None]

CHANNEL = "modelshare"
"""The one PostgreSQL NOTIFY channel; payloads read `topic:subject`."""
_PENDING = "notifications"

JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Table(DeclarativeBase):
    """Base of every table. Constraint names are fixed so that migrations can name them."""

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
            self._reader = self._writer = create_async_engine(self.url, pool_size=8, max_overflow=8, pool_pre_ping=True)
        self._read_session = async_sessionmaker(self._reader, expire_on_commit=False)
        self._write_session = async_sessionmaker(self._writer, expire_on_commit=False)
        self._listeners: dict[str, list[Listener]] = defaultdict(list)
        self._listening: asyncio.Task[None] | None = None

    @property
    def engine(self) -> AsyncEngine:
        """The writing engine, for migrations."""
        return self._writer

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one state of the data and changes nothing."""
        async with self._read_session() as session:
            yield session

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end of the block, then its notifications go out."""
        async with self._write_session() as session:
            pending: list[tuple[str, str]] = []
            session.info[_PENDING] = pending
            yield session
            if not self.is_sqlite:
                for topic, subject in pending:
                    await session.execute(
                        text("SELECT pg_notify(:channel, :payload)"),
                        {"channel": CHANNEL, "payload": f"{topic}:{subject}"},
                    )
            await session.commit()
        for topic, subject in pending:
            self._dispatch(topic, subject)

    def subscribe(self, topic: str, listener: Listener) -> None:
        """Calls `listener(subject)` on the event loop after every committed `notify`, of any process on PostgreSQL.

        A subject of "*" means that notifications may have been missed: drop whatever is cached.
        """
        self._listeners[topic].append(listener)

    async def start(self) -> None:
        """Starts listening to the other processes (PostgreSQL)."""
        if not self.is_sqlite:
            ready = asyncio.Event()
            self._listening = asyncio.create_task(self._listen(ready))
            await ready.wait()

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        await self._writer.dispose()
        await self._reader.dispose()

    def _dispatch(self, topic: str, subject: str) -> None:
        for listener in self._listeners.get(topic, ()):
            listener(subject)

    async def _listen(self, ready: asyncio.Event) -> None:
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            lost = asyncio.Event()
            try:
                connection = await asyncpg.connect(dsn)
            except (OSError, asyncpg.PostgresError) as error:
                log.warning("cannot listen to the database", error=str(error))
                await asyncio.sleep(1)
                continue
            try:
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(CHANNEL, self._received)
                if ready.is_set():
                    for topic in list(self._listeners):
                        self._dispatch(topic, "*")
                ready.set()
                await lost.wait()
            finally:
                connection.terminate()

    def _received(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        topic, _, subject = str(payload).partition(":")
        self._dispatch(topic, subject)


def notify(session: AsyncSession, topic: str, subject: str) -> None:
    """Tells every process about a change, once and only if this transaction commits."""
    pending: list[tuple[str, str]] = session.info[_PENDING]
    if (topic, subject) not in pending:
        pending.append((topic, subject))


def locked(statement: Select[Row]) -> Select[Row]:
    """The rows, locked until the transaction ends and read anew; on SQLite a write holds the only lock anyway."""
    return statement.with_for_update().execution_options(populate_existing=True)


def unclaimed(statement: Select[Row]) -> Select[Row]:
    """Those of the rows that no other transaction holds, `locked`: who works off a queue takes what others do not."""
    return statement.with_for_update(skip_locked=True).execution_options(populate_existing=True)


def owned(table: type[Row], project_id: str) -> Select[Row]:
    """The only way to a tenant's rows: those of `project_id`, so that absent and forbidden look alike."""
    return select(table).where(table.project_id == project_id)  # type: ignore[attr-defined] # every tenant's table has it


def upsert(session: AsyncSession, table: type[Table]) -> SqliteInsert | PostgresInsert:
    """An INSERT that can say ON CONFLICT DO UPDATE: one statement, so that nobody comes between look and write."""
    return (sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgres_insert)(table)


def json_values(session: AsyncSession, column: InstrumentedAttribute[list[str]]) -> TableValuedAlias:
    """The elements of a JSON list of strings, as a table with the one column `value`."""
    if session.get_bind().dialect.name == "sqlite":
        return func.json_each(column).table_valued("value")
    return func.jsonb_array_elements_text(column).table_valued("value")


def is_unique_violation(error: DBAPIError) -> bool:
    """True when a write broke a unique constraint: somebody else took the name first."""
    return "UNIQUE constraint failed" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "23505"


def _sqlite_engine(url: URL, begin: str, pool_size: int) -> AsyncEngine:
    engine = create_async_engine(
        url, pool_size=pool_size, max_overflow=0, pool_timeout=60, connect_args={"timeout": 30}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        # The driver's own transaction handling is off: it would begin late and without the write lock.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
