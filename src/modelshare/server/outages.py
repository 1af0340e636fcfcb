"""Outages: classifies errors of the database and the operating system that are not the fault of the request."""

import errno
import socket
import sqlite3
import time
from enum import StrEnum
from typing import ClassVar, Final

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = structlog.get_logger()

DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What SQLAlchemy passes on as it is while it connects. The last is of a connection that the server is just ending."""
_REPEAT_SECONDS: Final = 10.0


class Outage(StrEnum):
    """Each may pass without a change of the request."""

    DATABASE_AWAY = "database_away"
    """It is unreachable, starting, stopping, without a free connection, or damaged."""
    DATABASE_READ_ONLY = "database_read_only"
    DATABASE_UNFIT = "database_unfit"
    """A table, a column or a permission is missing."""
    SCHEMA_CHANGED = "schema_changed"
    """The schema was upgraded or downgraded under a running process, which no longer fits it."""
    DISK_FULL = "disk_full"
    """The disk of the database or of the storage."""
    STORAGE_AWAY = "storage_away"
    OWN_STORAGE_AWAY = "own_storage_away"
    """A storage that belongs to a project; its owner has to restore it."""
    HOLDER_AWAY = "holder_away"
    """The machine of a model's owner that holds its files."""
    COLLISION = "collision"
    """The transaction was rolled back in favour of another one; it can be retried unchanged."""


class OutageError(Exception):
    """An error that names its outage. Its message may be shown to the client."""

    outage: ClassVar[Outage]


_SQLSTATES: Final = {
    "40001": Outage.COLLISION,  # serialization_failure
    "40P01": Outage.COLLISION,  # deadlock_detected
    "25006": Outage.DATABASE_READ_ONLY,  # read_only_sql_transaction
    "53100": Outage.DISK_FULL,
    "3D000": Outage.DATABASE_AWAY,  # invalid_catalog_name
    "42501": Outage.DATABASE_UNFIT,  # insufficient_privilege
    "42P01": Outage.DATABASE_UNFIT,  # undefined_table
    "42703": Outage.DATABASE_UNFIT,  # undefined_column
}
_SQLSTATE_CLASSES: Final = {
    "08": Outage.DATABASE_AWAY,  # connection exception
    "28": Outage.DATABASE_AWAY,  # invalid authorization: the password was changed
    "53": Outage.DATABASE_AWAY,  # insufficient resources, such as too_many_connections
    "57": Outage.DATABASE_AWAY,  # operator intervention, such as "the database system is starting up"
    "58": Outage.DATABASE_AWAY,  # system error
    "XX": Outage.DATABASE_AWAY,  # internal error, such as data_corrupted
}
"""By the first two characters (PostgreSQL, appendix A)."""
_SQLITE: Final = {
    sqlite3.SQLITE_FULL: Outage.DISK_FULL,
    sqlite3.SQLITE_READONLY: Outage.DATABASE_READ_ONLY,
    sqlite3.SQLITE_BUSY: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_LOCKED: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_IOERR: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_CANTOPEN: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_CORRUPT: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_NOTADB: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_PERM: Outage.DATABASE_AWAY,
    sqlite3.SQLITE_PROTOCOL: Outage.DATABASE_AWAY,
}
_SQLITE_LACKS: Final = ("no such table", "no such column", "has no column")
"""Messages of SQLite, whose error code is the same for any error of a statement."""
_SENTENCES: Final = {
    Outage.DATABASE_AWAY: "the database is unreachable: check that it runs, and that `database_url` is right",
    Outage.DATABASE_READ_ONLY: "the database rejects writes: make it writable, or set `database_url` to the primary",
    Outage.SCHEMA_CHANGED: "this process and the database's schema are of different versions: nothing is written",
    Outage.DISK_FULL: "a disk is full, the database's or the storage's: free some space",
    Outage.STORAGE_AWAY: "the storage is unavailable: check that its folder or bucket exists and is writable",
}
"""Log messages for the operator. Other outages are logged as they are."""
_reported: dict[Outage, float] = {}
"""When each was last logged, by the monotonic clock."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DISK: Final = frozenset(
    {
        *(errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN),  # the disk, or its mount
        *(errno.EACCES, errno.EPERM),  # the operator has changed what the server may do
        *(errno.EMFILE, errno.ENFILE),
    }
)
_NETWORK: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


def outage_of(error: BaseException) -> Outage | None:
    """The outage that the error shows; None if it shows none. Pure."""
    if isinstance(error, DBAPIError):
        return _of_database(error)
    if isinstance(error, asyncpg.PostgresError):
        return _of_sqlstate(error.sqlstate)
    if isinstance(error, (PoolTimeout, *DRIVER_ERRORS)):
        return Outage.DATABASE_AWAY
    if isinstance(error, OutageError):
        return error.outage
    return _of_system(error) if isinstance(error, OSError) else None


def is_database_away(error: BaseException) -> bool:
    """Whether the database was unreachable, or no longer fits this process. False if it answered with another error."""
    return outage_of(error) in {Outage.DATABASE_AWAY, Outage.SCHEMA_CHANGED}


def report(what: str, error: BaseException, **context: object) -> None:
    """Logs what failed. An outage is logged at most every ten seconds, however much fails because of it."""
    outage = outage_of(error)
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    sentence = _SENTENCES.get(outage) if outage is not None else None
    if outage is Outage.HOLDER_AWAY:  # machines of users come and go
        log.debug(what, error=reason, **context)
        return
    if outage is None or sentence is None:
        log.warning(what, error=reason, **context)
        return
    now = time.monotonic()
    if now >= _reported.get(outage, -_REPEAT_SECONDS) + _REPEAT_SECONDS:
        _reported[outage] = now
        log.error(sentence, error=reason, failed=what, **context)


def _of_database(error: DBAPIError) -> Outage | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_ERROR:
        return Outage.DATABASE_UNFIT if any(lack in str(error.orig) for lack in _SQLITE_LACKS) else None
    if code is not None:
        return _SQLITE.get(code & 0xFF)  # extended codes have the primary code in the low byte
    found = _of_sqlstate(getattr(error.orig, "sqlstate", None))
    if found is None and (error.connection_invalidated or isinstance(error, InterfaceError)):
        return Outage.DATABASE_AWAY
    return found


def _of_sqlstate(state: str | None) -> Outage | None:
    return _SQLSTATES.get(state or "") or _SQLSTATE_CLASSES.get((state or "")[:2])


def _of_system(error: OSError) -> Outage | None:
    if error.errno in _FULL:
        return Outage.DISK_FULL
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or error.errno in _NETWORK:
        return Outage.DATABASE_AWAY
    return Outage.STORAGE_AWAY if error.errno in _DISK else None
