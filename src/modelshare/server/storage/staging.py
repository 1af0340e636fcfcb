"""An upload in progress in the folder store: a sparse file written in place, and a small mark for each stored part.

<staging>/<key>/<id>/data          has the size of the finished file from the start
<staging>/<key>/<id>/parts/<n>     the SHA-256 of part n, once it is on disk

A mark is written after its part is synced, and durably removed before the part is overwritten, so that marks are
correct whenever the process or the machine stops. A truncated mark is ignored.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelshare import private_files
from modelshare.server.storage.base import Part
from modelshare.server.storage_errors import MultipartNotFoundError, PartsMissingError, StorageFullError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MAX_PIECES = 1024
"""IOV_MAX of Linux and macOS: the maximum number of buffers per system call."""
sync_data = getattr(os, "fdatasync", os.fsync)
"""macOS has no fdatasync."""


class Staging:
    """All of its methods block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._parts = folder / "parts"

    def create(self, size: int) -> None:
        with no_room():
            self._parts.mkdir(mode=0o700, parents=True)
            with os.fdopen(os.open(self.data, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.truncate(size)

    def open(self) -> int:
        """Opens the file for writing; returns its descriptor. Raises MultipartNotFoundError."""
        try:
            return os.open(self.data, os.O_WRONLY)
        except FileNotFoundError:
            raise MultipartNotFoundError from None

    def mark(self, number: int) -> str | None:
        """SHA-256 of the part, or None if it is not stored."""
        try:
            text = (self._parts / str(number)).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        return text if _SHA256.fullmatch(text) else None

    def set_mark(self, number: int, sha256: str) -> None:
        try:
            with no_room():
                mark = os.open(self._parts / str(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(mark, "w", encoding="ascii") as file:
                    file.write(sha256)
        except FileNotFoundError:
            raise MultipartNotFoundError from None

    def clear_mark(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._parts / str(number)).unlink()
            private_files.sync_folder(self._parts)

    def marks(self) -> dict[int, str]:
        """SHA-256 of the stored parts, by number."""
        try:
            numbers = [int(path.name) for path in self._parts.iterdir() if path.name.isdecimal()]
        except FileNotFoundError:
            return {}
        return {number: mark for number in numbers if (mark := self.mark(number)) is not None}

    def parts(self, sizes: Sequence[int]) -> list[Part]:
        """The stored parts. `sizes` are the sizes of all parts, in order. Raises MultipartNotFoundError."""
        if not self.data.exists():
            raise MultipartNotFoundError
        marks = ((number, size, self.mark(number)) for number, size in enumerate(sizes))
        return [Part(number, size, mark) for number, size, mark in marks if mark is not None]

    def publish(self, blob: Path, sizes: Sequence[int]) -> None:
        """Moves the complete file to `blob`, whose folder the caller must sync.

        Raises PartsMissingError, MultipartNotFoundError.
        """
        stored = {part.number for part in self.parts(sizes)}
        if missing := [number for number in range(len(sizes)) if number not in stored]:
            raise PartsMissingError(missing)
        with no_room():
            blob.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            private_files.tighten(self.data)
            self.data.replace(blob)  # no sync needed: each part was synced before its mark was written
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class PartWriter:
    """Hashes one part and, unless `file` is None, writes it in place. `write` and `sync` block."""

    def __init__(self, file: int | None, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._hash = hashlib.sha256()

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        for chunk in chunks:
            self._hash.update(chunk)
        if self._file is not None:
            self._write_all(self._file, chunks)

    def sync(self) -> None:
        if self._file is not None:
            with no_room():
                sync_data(self._file)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _write_all(self, file: int, chunks: Sequence[bytes | memoryview]) -> None:
        size = sum(map(len, chunks))
        with no_room():
            written = os.pwritev(file, chunks[:_MAX_PIECES], self._offset) if size else 0
            if written < size:  # more than _MAX_PIECES, or the disk is full, which the next write reports
                rest = memoryview(b"".join(chunks))[written:]
                while rest:
                    count = os.pwrite(file, rest, self._offset + written)
                    written, rest = written + count, rest[count:]
        self._offset += size


def move(source: Path, blob: Path) -> None:
    """Moves `source` to `blob`, durably: by a rename, or by a copy if it is on another file system."""
    with no_room():
        blob.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            private_files.tighten(source)
            _sync(source)
            source.replace(blob)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, blob)
            source.unlink()
        private_files.sync_folder(blob.parent)


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Translates the system's errors for a full disk into StorageFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError from error
        raise


def _copy(source: Path, blob: Path) -> None:
    partial = blob.with_name(f".{blob.name}.partial")  # never a key: their segments do not start with a dot
    try:
        private_files.touch(partial)
        shutil.copyfile(source, partial)
        _sync(partial)
        partial.replace(blob)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
