"""Files and folders that only their owner may read, written atomically.

Their mode is set explicitly and does not depend on the process's umask or the parent folder. A file is written to a
temporary file, synced, and renamed, so that no one ever sees a partial one.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FILE: Final = 0o600
_FOLDER: Final = 0o700
UMASK: Final = 0o077
"""For programs whose files are all private: it also applies to files of libraries and child processes."""


def create(path: Path, data: bytes) -> bytes:
    """Creates the file unless it exists; returns its contents. Concurrent calls all return the same contents.

    Raises OSError, also if the file system does not support hard links.
    """
    with _written_beside(path, data) as fresh, contextlib.suppress(FileExistsError):
        os.link(fresh, path)
        sync_folder(path.parent)
    return path.read_bytes()


def replace(path: Path, data: bytes) -> None:
    """Writes the file atomically: after a crash it has either its old or its new contents."""
    with _written_beside(path, data) as fresh:
        fresh.rename(path)
        sync_folder(path.parent)


def folder(path: Path) -> None:
    """Creates the folder; if it exists, removes other users' permissions."""
    path.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    tighten(path)


def touch(path: Path) -> None:
    """Creates an empty file if there is none, for a library that would create it with another mode.

    An existing one is not opened, since closing it would release the process's locks on it (fcntl(2)).
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE))
    except FileExistsError:
        tighten(path)


def lock(path: Path) -> int:
    """Creates the file and its folder, and locks the file until the returned descriptor is closed or the process dies.

    Raises BlockingIOError if another process holds the lock, and OSError if the file cannot be created.
    """
    path.parent.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def tighten(path: Path) -> None:
    """Removes other users' permissions on a file or folder. Raises OSError if that is not allowed."""
    mode = path.stat().st_mode & 0o777
    if mode & UMASK:
        path.chmod(mode & ~UMASK)


def sync_folder(path: Path) -> None:
    """Makes changes of the folder's entries survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # creates it with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
