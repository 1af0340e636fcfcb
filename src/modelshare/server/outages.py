"""What is out of order when nothing is wrong with what was asked: told from an error of a database or of the system."""

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

_SAY_AGAIN_SECONDS: Final = 10.0


class Outage(StrEnum):
    """Each passes without anybody who asked changing what they ask for."""

    DATABASE_AWAY = "database_away"
    """It cannot be asked: not there, starting, stopping, without a free connection, or broken."""
    DATABASE_READ_ONLY = "database_read_only"
    DATABASE_UNFIT = "database_unfit"
    """It lacks a table, or the rights on one: nothing is wrong with what was to be written."""
    DISK_FULL = "disk_full"
    """The database's, or that of the storage."""
    STORAGE_AWAY = "storage_away"
    OWN_STORAGE_AWAY = "own_storage_away"
    """A storage that belongs to a project, which its owner has to restore."""
    HOLDER_AWAY = "holder_away"
    """The machine of a model's owner that holds its files."""
    COLLISION = "collision"
    """The database undid it for the sake of another transaction; it can be sent again as it is."""


class OutageError(Exception):
    """Says itself what is out of order; its message is fit for the person who sent the request."""

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
"""What SQLite says of a table; its code for it is the one for any error of a statement."""
_SENTENCES: Final = {
    Outage.DATABASE_AWAY: "the database is unreachable: check that it runs, and that `database_url` is right",
    Outage.DATABASE_READ_ONLY: "the database rejects writes: make it writable, or set `database_url` to the primary",
    Outage.DISK_FULL: "a disk is full, the database's or the storage's: free some space",
    Outage.STORAGE_AWAY: "the storage is unavailable: check that its folder or bucket exists and is writable",
}
"""What the operator is told of what passes by itself; of anything else, what it is."""
_said: dict[Outage, float] = {}
"""When each was last told of, by the monotonic clock."""
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
    """What is out of order; None where the error says nothing of the kind. Pure."""
    if isinstance(error, DBAPIError):
        return _of_database(error)
    if isinstance(error, asyncpg.PostgresError):
        return _of_sqlstate(error.sqlstate)
    if isinstance(error, PoolTimeout | asyncpg.InterfaceError):
        return Outage.DATABASE_AWAY
    if isinstance(error, OutageError):
        return error.outage
    return _of_system(error) if isinstance(error, OSError) else None


def is_database_away(error: BaseException) -> bool:
    """The database could not be asked. False for whatever it answered, an error of its own included."""
    return outage_of(error) is Outage.DATABASE_AWAY


def report(what: str, error: BaseException, **context: object) -> None:
    """Tells the operator what failed. An outage takes one sentence, now and then, however much fails for it."""
    outage = outage_of(error)
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    sentence = _SENTENCES.get(outage) if outage is not None else None
    if outage is None or sentence is None:
        log.warning(what, error=reason, **context)
        return
    now = time.monotonic()
    if now >= _said.get(outage, -_SAY_AGAIN_SECONDS) + _SAY_AGAIN_SECONDS:
        _said[outage] = now
        log.error(sentence, error=reason, failed=what, **context)


def _of_database(error: DBAPIError) -> Outage | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_ERROR:
        return Outage.DATABASE_UNFIT if any(lack in str(error.orig) for lack in _SQLITE_LACKS) else None
    if code is not None:
        return _SQLITE.get(code & 0xFF)  # extended codes keep what they extend in the low byte
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
