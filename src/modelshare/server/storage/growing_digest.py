"""The SHA-256 of a file that is coming in, which grows behind its parts: known soon after the last one is there.

Parts are read back from memory that the operating system keeps of what was just written. Nothing of it survives a
restart: then the file is read as a whole when it is processed.
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
    """A part to hash."""

    version: int
    offset: int
    hasher: "hashlib._Hash"


class GrowingDigest:
    """Of one file. `came` and `going` are called in the order of what they tell; threads may call them."""

    def __init__(
        self, data: Path, size: int, part_size: int, there: dict[int, str], clock: Callable[[], float]
    ) -> None:
        """`there`: the SHA-256 of parts that came before."""
        self._data = data
        self._size = size
        self._part_size = part_size
        self._there = there
        self._clock = clock
        self._lock = threading.Lock()
        self._hasher = hashlib.sha256()
        self._at = 0
        """Parts that are hashed; the first that is not."""
        self._version = 0
        """Counts how often hashing had to begin anew."""
        self._work: Future[None] | None = None
        self._hashed_at = 0.0

    def came(self, number: int, sha256: str, executor: Executor) -> None:
        """The part is written."""
        with self._lock:
            self._there[number] = sha256
            if self._is_one_part:
                self._hashed_at = self._clock()
            elif self._at in self._there and (self._work is None or self._work.done()):
                self._work = executor.submit(self._follow)

    def going(self, number: int) -> None:
        """The part is about to be written anew."""
        with self._lock:
            self._there.pop(number, None)
            if number <= self._at:
                self._hasher, self._at = hashlib.sha256(), 0
                self._version += 1

    def proof(self) -> Proof | None:
        """Blocks until all that is there is hashed; None where that is not the whole file.

        Nothing may come meanwhile.
        """
        with self._lock:
            work = self._work
        if work is not None:
            with contextlib.suppress(OSError):  # what could not be hashed is read once more
                work.result()
        with self._lock:
            if self._is_one_part:
                return Proof(self._there[0], self._size, self._hashed_at) if self._hashed_at and self._there else None
            if self._at * self._part_size < self._size:
                return None
            return Proof(self._hasher.hexdigest(), self._size, self._hashed_at)

    @property
    def _is_one_part(self) -> bool:
        """Its digest is the file's."""
        return 0 < self._size <= self._part_size

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_SLICE))
        try:
            file = os.open(self._data, os.O_RDONLY)
        except FileNotFoundError:  # the upload was dropped
            return
        try:
            while (part := self._next()) is not None:
                self._hash(file, part, buffer)
        finally:
            os.close(file)

    def _next(self) -> "_Next | None":
        """None, and `came` begins anew, when the next part is not there."""
        with self._lock:
            if self._at not in self._there:
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
