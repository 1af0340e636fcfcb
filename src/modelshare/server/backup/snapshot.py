"""Copies a database at one moment, while it is used, and puts the copy back. The dialects have tools of their own."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
from sqlalchemy.engine import URL

from modelshare import private_files
from modelshare.server.backup.layout import BackupError, StoredFile
from modelshare.server.db import Database

_WEIGHTS: Final = "SELECT key, size, sha256 FROM blobs WHERE storage = 'platform' AND pin IS NULL ORDER BY key"
_REVISION: Final = "SELECT version_num FROM alembic_version"
_TABLES: Final = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('modelshare restore'))"
_DEBIAN: Final = Path("/usr/lib/postgresql")


class Snapshot(NamedTuple):
    revision: str
    weights: list[StoredFile]
    """The files on the platform's storage that it names."""


async def take(database: Database, file: Path) -> Snapshot:
    """Copies the database to `file`. Raises BackupError."""
    if database.is_sqlite:
        try:
            return await asyncio.to_thread(_copy_sqlite, Path(database.url.database or ""), file)
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise BackupError(f"The disk of {file.parent} is full. Free some space, or choose another.") from error
            raise BackupError(f"The database cannot be copied ({error}). `modelshare doctor` examines it.") from error
    return await _dump(database.url, file)


def _copy_sqlite(path: Path, file: Path) -> Snapshot:
    """Copies in one step, and therefore one transaction, during which others may write."""
    file.unlink(missing_ok=True)
    private_files.touch(file)
    with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(file)) as copy:
        source.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE")  # so that it is a single file
        [(found,)] = copy.execute("PRAGMA integrity_check(1)")
        if found != "ok":
            raise BackupError(f"The database is damaged ({found}). Restore an earlier backup.")
        [(revision,)] = copy.execute(_REVISION)
        weights = [_stored(row) for row in copy.execute(_WEIGHTS)]
    with file.open("rb") as written:
        os.fsync(written.fileno())
    return Snapshot(revision, weights)


async def _dump(url: URL, file: Path) -> Snapshot:
    """What the dump has and what is read here are the same state: both use one exported snapshot."""
    connection = await _connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            exported = await connection.fetchval("SELECT pg_export_snapshot()")
            await _run_tool(
                url, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={exported}",
                f"--file={file}",
            )  # fmt: skip
            revision = await connection.fetchval(_REVISION)
            weights = [_stored(row) for row in await connection.fetch(_WEIGHTS)]
    finally:
        await connection.close()
    return Snapshot(revision, weights)


@contextlib.asynccontextmanager
async def sole_user(database: Database) -> AsyncIterator[None]:
    """Locks a PostgreSQL database against other restores. Raises BackupError if one is in progress."""
    if database.is_sqlite:  # it is in the data folder, which has a lock of its own
        yield
        return
    connection = await _connect(database.url)
    try:
        if not await connection.fetchval(_LOCK):
            name = database.url.database
            raise BackupError(f"Another restore into the database {name} is in progress. Wait until it is finished.")
        yield
    finally:
        await connection.close()


async def require_empty(database: Database) -> None:
    """Raises BackupError if something is there already."""
    if database.is_sqlite:
        path = Path(database.url.database or "")
        if path.exists():
            raise BackupError(f"{path} exists already. Restore into another folder.")
        return
    connection = await _connect(database.url)
    try:
        if await connection.fetchval(_TABLES):
            raise BackupError(
                f"The database {database.url.database} is not empty. Create a new one, and set `database_url` to it."
            )
    finally:
        await connection.close()


async def load_dump(database: Database, file: Path) -> None:
    """Fills an empty PostgreSQL database, in one transaction. Raises BackupError."""
    await _run_tool(
        database.url, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction",
        f"--dbname={database.url.database}", str(file),
    )  # fmt: skip


def _stored(row: tuple[str, int, str]) -> StoredFile:
    key, size, sha256 = row
    return StoredFile(key=key, size=size, sha256=sha256)


async def _connect(url: URL) -> asyncpg.Connection:
    return await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False), timeout=10)


async def _run_tool(url: URL, name: str, *options: str) -> None:
    """Runs a program of PostgreSQL's on this database. Raises BackupError."""
    process = await asyncio.create_subprocess_exec(
        _tool(name), "--no-password", *options,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env=_environment(url),
    )  # fmt: skip
    try:
        _, errors = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        advice = " Its version must be the server's." if "version" in lines[0] else ""
        raise BackupError(f"{name} failed: {lines[0].removeprefix(f'{name}: ')}.{advice}")


def _tool(name: str) -> str:
    installed = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    found = str(installed[-1]) if installed else shutil.which(name)
    if found is None:
        raise BackupError(
            f"{name} is not installed. Install PostgreSQL's client programs (such as the package postgresql-client), "
            "of the server's version or a newer one."
        )
    return found


def _environment(url: URL) -> dict[str, str]:
    """How the programs find the database. The command line would show the password to other users."""
    given = {
        "PGHOST": url.query.get("host") or url.host,
        "PGPORT": url.query.get("port") or url.port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": url.query.get("sslmode") or url.query.get("ssl"),
    }
    return {**os.environ, **{name: str(value) for name, value in given.items() if value}}
