"""A partially downloaded file and a journal of its complete pieces, so that little is lost when the process is killed.

`<name>.part` contains the bytes in place. `<name>.pieces` has one byte per piece, which is set to 1 when the whole
piece is written. Both survive a killed process. After a power failure the journal may claim more than the disk has,
which the digest of the whole file reveals.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

from modelshare import private_files

PIECE = 8 << 20
"""Bytes per request (like boto3's `multipart_chunksize`). A kill loses at most 8 unfinished pieces, 64 MiB."""

MAX_AT_ONCE = 512
"""Maximum number of buffers in one write; operating systems allow 1,024."""
_READ_SIZE = 1 << 20
_DONE = b"\1"


class Hasher(Protocol):
    """A `hashlib` object."""

    def update(self, data: memoryview, /) -> None:
        """Hashes more bytes."""


class PartFile:
    """Several threads may write, each to a different piece."""

    def __init__(self, final: Path, size: int) -> None:
        self._final = final
        self._part = final.with_name(final.name + ".part")
        self._journal_path = final.with_name(final.name + ".pieces")
        self.size = size
        self._count = -(-size // PIECE)
        self._lock = threading.Lock()
        self._file = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o600)
        self._journal_file = os.open(self._journal_path, os.O_RDWR | os.O_CREAT, 0o600)
        self._filled = self._load_journal()
        self._first_open = 0
        self.bytes_done = sum(self._filled)
        """Number of bytes written, including those of incomplete pieces."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._journal_file)

    @property
    def frontier(self) -> int:
        """Every byte before this offset has been written."""
        while self._first_open < self._count and self._is_full(self._first_open):
            self._first_open += 1
        if self._first_open == self._count:
            return self.size
        return self._first_open * PIECE + self._filled[self._first_open]

    def missing(self) -> Iterator[int]:
        """The incomplete pieces in order, evaluated lazily."""
        return (piece for piece in range(self._count) if not self._is_full(piece))

    def gap(self, piece: int) -> tuple[int, int]:
        """The bytes [start, end) that the piece still lacks; empty if start equals end."""
        start = piece * PIECE
        return start + self._filled[piece], start + self._length(piece)

    def filled_to(self, offset: int, end: int) -> int:
        """Up to where, at most `end`, all bytes from `offset` on have been written; `offset` if none."""
        while offset < end:
            piece = offset // PIECE
            filled = piece * PIECE + self._filled[piece]
            if filled <= offset:
                break
            offset = min(end, filled)
        return offset

    def write(self, offset: int, *data: bytes) -> int:
        """Writes `data` at `offset`, directly after the bytes that the piece already has.

        Returns the number of new bytes. Blocks on the disk: call it in a thread. Pass at most `MAX_AT_ONCE` buffers.
        """
        size = sum(map(len, data))
        written = os.pwritev(self._file, data, offset) if size else 0
        if written < size:  # the disk is probably full, and the next write raises the error
            rest = memoryview(b"".join(data))[written:]
            while rest:
                count = os.pwrite(self._file, rest, offset + written)
                rest, written = rest[count:], written + count
        return self._fill(offset, offset + size)

    def feed(self, hasher: Hasher, start: int, end: int) -> int:
        """Hashes the bytes [start, end) as stored on disk; returns `end`. Blocks: call it in a thread."""
        buffer = bytearray(min(_READ_SIZE, end - start))
        view = memoryview(buffer)
        while start < end:
            count = os.preadv(self._file, [view[: end - start]], start)
            if count == 0:
                raise OSError(f"{self._part} is shorter than it should be.")
            hasher.update(view[:count])
            start += count
        return start

    def reset(self) -> None:
        """Discards all bytes, since they are wrong."""
        os.ftruncate(self._journal_file, 0)
        os.ftruncate(self._file, 0)
        self._filled = [0] * self._count
        self._first_open = self.bytes_done = 0

    def publish(self) -> None:
        """Renames the complete, verified file to its final name, durably."""
        os.fchmod(self._file, 0o400)
        os.fsync(self._file)
        self._part.rename(self._final)
        private_files.sync_folder(self._final.parent)
        self._journal_path.unlink()

    def _load_journal(self) -> list[int]:
        """The number of bytes in each piece, according to the journal of an earlier run."""
        marks = os.pread(self._journal_file, self._count + 1, 0)
        if len(marks) > self._count:  # written with another piece size
            os.ftruncate(self._journal_file, 0)
            marks = b""
        size = os.fstat(self._file).st_size
        marks = marks.ljust(self._count, b"\0")
        return [
            self._length(piece) if mark == _DONE[0] and size >= piece * PIECE + self._length(piece) else 0
            for piece, mark in enumerate(marks)
        ]

    def _fill(self, start: int, end: int) -> int:
        new = 0
        with self._lock:
            for piece in range(start // PIECE, -(-end // PIECE)):
                first = piece * PIECE
                filled = min(end - first, self._length(piece))
                gained = filled - self._filled[piece]
                if gained <= 0:
                    continue
                self._filled[piece] = filled
                new += gained
                if self._is_full(piece):
                    os.pwrite(self._journal_file, _DONE, piece)
            self.bytes_done += new
        return new

    def _length(self, piece: int) -> int:
        return min(PIECE, self.size - piece * PIECE)

    def _is_full(self, piece: int) -> bool:
        return self._filled[piece] == self._length(piece)
