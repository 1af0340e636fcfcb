"""The SHA-256 of a file during its upload, computed behind its parts: known soon after the last one is stored.

Parts that were just written are read back, usually from the page cache. The state does not survive a restart: the
whole file is then read when it is processed.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelshare.server.storage.base import Proof

_SLICE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Next:
    """The next part to hash."""

    version: int
    offset: int
    hasher: "hashlib._Hash"


class GrowingDigest:
    """The digest of one file. Thread-safe; call `part_written` and `invalidate` in the order of the writes."""

    def __init__(
        self, data: Path, size: int, part_size: int, parts: dict[int, str], clock: Callable[[], float]
    ) -> None:
        """`parts`: the SHA-256 of the parts stored so far, by number."""
        self._data = data
        self._size = size
        self._part_size = part_size
        self._parts = parts
        self._clock = clock
        self._lock = threading.Lock()
        self._hasher = hashlib.sha256()
        self._at = 0
        """The number of parts hashed so far, which is also the number of the next one."""
        self._version = 0
        """How often hashing was restarted."""
        self._work: Future[None] | None = None
        self._hashed_at = 0.0

    def part_written(self, number: int, sha256: str, executor: Executor) -> None:
        """Continues hashing in `executor`, as far as parts are stored without a gap."""
        with self._lock:
            self._parts[number] = sha256
            if self._is_one_part:
                self._hashed_at = self._clock()
            elif self._at in self._parts and (self._work is None or self._work.done()):
                self._work = executor.submit(self._hash_parts)

    def invalidate(self, number: int) -> None:
        """Call before the part is overwritten: restarts hashing if it was already read."""
        with self._lock:
            self._parts.pop(number, None)
            if number <= self._at:
                self._hasher, self._at = hashlib.sha256(), 0
                self._version += 1

    def proof(self) -> Proof | None:
        """Blocks until the stored parts are hashed; None if that is not the whole file.

        No part may be written meanwhile.
        """
        with self._lock:
            work = self._work
        if work is not None:
            with contextlib.suppress(OSError):  # a part that could not be hashed is read again during processing
                work.result()
        with self._lock:
            if self._is_one_part:
                return Proof(self._parts[0], self._size, self._hashed_at) if self._hashed_at and self._parts else None
            if self._at * self._part_size < self._size:
                return None
            return Proof(self._hasher.hexdigest(), self._size, self._hashed_at)

    @property
    def _is_one_part(self) -> bool:
        """Then the digest of the part is the digest of the file."""
        return 0 < self._size <= self._part_size

    def _hash_parts(self) -> None:
        buffer = memoryview(bytearray(_SLICE))
        try:
            file = os.open(self._data, os.O_RDONLY)
        except FileNotFoundError:  # the upload was aborted
            return
        try:
            while (part := self._next()) is not None:
                self._hash(file, part, buffer)
        finally:
            os.close(file)

    def _next(self) -> "_Next | None":
        """None if the next part is not stored; `part_written` then starts a new task."""
        with self._lock:
            if self._at not in self._parts:
                self._work = None
                return None
            return _Next(self._version, self._at * self._part_size, self._hasher)

    def _hash(self, file: int, part: "_Next", buffer: memoryview) -> None:
        at, end = part.offset, min(part.offset + self._part_size, self._size)
        while at < end and part.version == self._version:
            count = os.preadv(file, [buffer[: end - at]], at)
            if not count:
                raise OSError(f"{self._data} is shorter than it should be.")
            part.hasher.update(buffer[:count])
            at += count
        with self._lock:
            if part.version == self._version:
                self._at += 1
                self._hashed_at = self._clock()
