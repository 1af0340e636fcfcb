"""Files that only their owner may read, and that are there whole or not at all.

Their mode is set on themselves: neither a process's umask nor the folder around them is trusted with it. Nobody ever
sees one half written: it is written beside its place, synced, and put there in one step.
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
"""For programs whose files are all private: it also covers what libraries and child processes write."""


def create(path: Path, data: bytes) -> bytes:
    """Makes the file, unless it is there; its content. Of several who make it at once, all get what one of them gave.

    Raises OSError, also where the file system has no hard links.
    """
    with _written_beside(path, data) as fresh, contextlib.suppress(FileExistsError):
        os.link(fresh, path)
        sync_folder(path.parent)
    return path.read_bytes()


def replace(path: Path, data: bytes) -> None:
    """The file has either its old content or all of the new one, whatever happens."""
    with _written_beside(path, data) as fresh:
        fresh.rename(path)
        sync_folder(path.parent)


def folder(path: Path) -> None:
    """Makes the folder, or takes one that is there away from everybody else."""
    path.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    tighten(path)


def touch(path: Path) -> None:
    """Makes an empty file where none is, for a library that would make it with a mode of its own choice.

    One that is there is not opened: closing it again would give up the process's locks on it (fcntl(2)).
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE))
    except FileExistsError:
        tighten(path)


def lock(path: Path) -> int:
    """Makes the file and its folder, and locks it until the descriptor is closed; a killed process holds nothing.

    Raises BlockingIOError while another process holds it, and OSError where it cannot be made.
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
    """Takes from others what they may do with a file or folder that is there. Raises OSError where one may not."""
    mode = path.stat().st_mode & 0o777
    if mode & UMASK:
        path.chmod(mode & ~UMASK)


def sync_folder(path: Path) -> None:
    """Makes what was put into the folder, or deleted there, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written_beside(path: Path, data: bytes) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
