"""Reads the files of a push and detects files that have changed since the push began.

Size, times and inode reveal most changes immediately. Only reading a file completely a second time reveals every change
(see `modelshare.client.sending`).
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from modelshare.client.errors import ChangedError, SourceError
from modelshare.client.plan import Part
from modelshare.client.source import LocalFile
from modelshare.wire.uploads import md5_of_parts

SLICE = 256 << 10
"""Bytes sent at once: about the size of a socket's buffer. The network library copies what does not fit."""
HASH_SLICE = 1 << 20
Moved = Callable[[int], None]
"""Called with the number of bytes read or sent; negative when a part starts over."""


class StoppedError(Exception):
    """The push was stopped from another thread, such as by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class _Identity:
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_Identity":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class FileDigests:
    sha256: str
    of_parts: list[str]
    """SHA-256 of each part."""
    parts_md5: str
    """As `FileDigest.parts_md5`."""


class Reader:
    """Reads the files of one push; threads may share it."""

    def __init__(self, files: Iterable[LocalFile], stop: threading.Event) -> None:
        """Records the current identity of all files. Raises SourceError."""
        self._stop = stop
        self._seen: dict[str, _Identity] = {}
        for file in files:
            status = _status(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                raise ChangedError(file.location)
            self._seen[file.path] = _Identity.of(status)

    def sleep(self, seconds: float) -> None:
        """Sleeps, unless the push is stopped: then raises StoppedError."""
        if self._stop.wait(seconds):
            raise StoppedError

    def require_unchanged(self, file: LocalFile) -> None:
        """Raises ChangedError if the file has changed, or SourceError if it cannot be read."""
        self._require(file, _status(file))

    def sha256(self, file: LocalFile, moved: Moved, part: Part | None = None) -> str:
        """Lowercase hex SHA-256 of the file, or of one part of it. Raises SourceError, StoppedError."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(HASH_SLICE))
        for piece in self._pieces(file, part, buffer):
            digest.update(piece)
            moved(len(piece))
        return digest.hexdigest()

    def digests(self, file: LocalFile, parts: Iterable[Part]) -> FileDigests:
        """Reads the file once. Raises SourceError, StoppedError."""
        whole = hashlib.sha256()
        digests, md5s = [], []
        buffer = memoryview(bytearray(HASH_SLICE))
        for part in parts:
            digest, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
            for piece in self._pieces(file, part, buffer):
                for hasher in (whole, digest, md5):
                    hasher.update(piece)
            digests.append(digest.hexdigest())
            md5s.append(md5.digest())
        return FileDigests(whole.hexdigest(), digests, md5_of_parts(md5s))

    def slices(self, file: LocalFile, part: Part) -> Iterator[bytes]:
        """Iterates over the part's bytes. Raises SourceError, StoppedError."""
        buffer = memoryview(bytearray(SLICE))
        return map(bytes, self._pieces(file, part, buffer))

    def _pieces(self, file: LocalFile, part: Part | None, buffer: memoryview) -> Iterator[memoryview]:
        """Yields views of `buffer`, each valid until the next one is requested."""
        offset, size = (0, file.size) if part is None else (part.offset, part.size)
        try:
            with file.location.open("rb", buffering=0) as source:
                self._require(file, os.fstat(source.fileno()))
                source.seek(offset)
                while size:
                    if self._stop.is_set():
                        raise StoppedError
                    count = source.readinto(buffer[:size])
                    if not count:
                        raise ChangedError(file.location)
                    size -= count
                    if not size:  # checked before the last piece is yielded, since the caller may stop there
                        self._require(file, os.fstat(source.fileno()))
                    yield buffer[:count]
        except OSError as error:
            raise _unreadable(file, error) from error

    def _require(self, file: LocalFile, status: os.stat_result) -> None:
        if _Identity.of(status) != self._seen[file.path]:
            raise ChangedError(file.location)


def _status(file: LocalFile) -> os.stat_result:
    try:
        return file.location.stat()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: LocalFile, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError):  # it existed when the push began
        return ChangedError(file.location)
    return SourceError(f"Cannot read {file.location}: {error.strerror}.")
