"""Bounded reads of parts of files, which may be local or in an object store."""

import os
import struct
from pathlib import Path
from typing import Protocol

from modelshare.server.registry.refused import ModelRejectedError, printable

_LENGTH = struct.Struct("<Q")
_WINDOW_BYTES = 1 << 20  # bytes of a header per request to an object store
_POINTER = b"version https://git-lfs.github.com/"
_LONGEST_POINTER = 1024  # from the specification


class RangeReader(Protocol):
    """A stored file. `read_at` returns exactly `length` bytes, at least one and within `size`, or raises."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class FileReader:
    """A local file, opened for each read, so that a model of 10,000 files keeps no descriptors open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read_at(self, offset: int, length: int) -> bytes:
        with self._path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise OSError(f"read {len(data)} of {length} bytes at {offset}")
        return data


def head(reader: RangeReader, length: int) -> bytes:
    """The first `length` bytes, or fewer if the file is shorter."""
    return piece(reader, 0, min(length, reader.size))


def piece(reader: RangeReader, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`. Makes no request for 0 bytes, since object stores reject empty ranges."""
    return reader.read_at(offset, length) if length else b""


class Cursor:
    """Reads a header from its start, little-endian. Raises ModelRejectedError beyond the file's end or `limit`
    bytes."""

    def __init__(self, name: str, reader: RangeReader, limit: int) -> None:
        self.position = 0
        self._name = name
        self._reader = reader
        self._limit = limit
        self._window = b""
        self._window_start = 0

    @property
    def remaining(self) -> int:
        return min(self._reader.size, self._limit) - self.position

    def skip(self, length: int) -> None:
        if length > self.remaining:
            raise self._overrun()
        self.position += length

    def skip_texts(self, count: int) -> None:
        """Skips `count` texts, each preceded by its length in 8 bytes; in one loop for speed, since a vocabulary has
        many."""
        while count:
            at = start = self._in_window(_LENGTH.size)
            last = len(self._window) - _LENGTH.size
            while count and at <= last:
                at += _LENGTH.size + _LENGTH.unpack_from(self._window, at)[0]
                count -= 1
            self.skip(at - start)

    def take(self, length: int) -> bytes:
        start = self._in_window(length)
        self.position += length
        return self._window[start : start + length]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def scalar(self, layout: struct.Struct) -> int | float | bool:
        value: int | float | bool = layout.unpack(self.take(layout.size))[0]
        return value

    def _in_window(self, length: int) -> int:
        """The offset of the next `length` bytes in the window, which is moved if necessary."""
        if length > self.remaining:
            raise self._overrun()
        start = self.position - self._window_start
        if start < 0 or start + length > len(self._window):
            self._window = piece(self._reader, self.position, min(max(length, _WINDOW_BYTES), self.remaining))
            self._window_start, start = self.position, 0
        return start

    def _overrun(self) -> ModelRejectedError:
        if self._reader.size <= self._limit:
            return ModelRejectedError(
                f"{printable(self._name)} ends inside its header or is damaged; export it and push it again."
            )
        return ModelRejectedError(
            f"{printable(self._name)} has a header of more than {self._limit >> 20} MiB, which no engine needs; "
            "export it again with a current tool."
        )


def check_no_pointer(name: str, reader: RangeReader) -> None:
    """Raises ModelRejectedError for a Git LFS pointer, which a clone may contain instead of a large file."""
    if len(_POINTER) < reader.size <= _LONGEST_POINTER and head(reader, len(_POINTER)) == _POINTER:
        raise ModelRejectedError(
            f"{printable(name)} is a pointer of Git LFS, not the file itself; run `git lfs pull` and push again."
        )
