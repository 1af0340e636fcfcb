"""Copies a file from a source into an upload session, in parts: verified, and resumed where an earlier run stopped."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from modelshare.server.registry.imports.source_client import (
    ShortAnswerError,
    SourceAwayError,
    SourceClient,
    SourceError,
)
from modelshare.server.registry.imports.sources import SourceFile
from modelshare.server.registry.refused import printable
from modelshare.server.registry.uploads.ahead import put_part
from modelshare.server.storage.base import BlobStore, Multipart

_TRIES: Final = 5
"""How often a source may break off without progress; then the job makes way for others."""


class Progress(Protocol):
    async def add(self, size: int) -> None:
        """`size` bytes are stored. Raises if the import has ended."""
        ...

    def check_time(self) -> None:
        """Raises when it is the turn of others."""
        ...


@dataclass(frozen=True, slots=True)
class Destination:
    store: BlobStore
    upload: Multipart
    stored: frozenset[int]
    """Numbers of the parts that are stored already."""


async def copy_file(client: SourceClient, file: SourceFile, to: Destination, progress: Progress) -> None:
    """Stores the missing parts. A file that is copied from its start is verified before its last part is stored; where
    an earlier run stored parts, processing compares the digest. Raises SourceError, SourceAwayError.
    """
    missing = [number for number in range(to.upload.count) if number not in to.stored]
    is_whole = len(missing) == to.upload.count
    if missing and not is_whole and file.sha256 is None:  # nothing else would verify it
        missing, is_whole = list(range(to.upload.count)), True
    verifier = _Verifier(client.host, file) if is_whole else None
    for first, last in _runs(missing):
        await _copy_run(client, file, to, first, last, verifier, progress)


async def _copy_run(
    client: SourceClient,
    file: SourceFile,
    to: Destination,
    first: int,
    last: int,
    verifier: "_Verifier | None",
    progress: Progress,
) -> None:
    """Copies parts `first` to `last` in one request, or in more if the source breaks off."""
    offset, size_of_last = to.upload.span(last)
    end, number, held, failures = offset + size_of_last, first, bytearray(), 0
    while number <= last:
        start = to.upload.span(number)[0] + len(held)
        try:
            async with aclosing(client.content(file.url, file.path, start, end, file.size)) as pieces:
                async for piece in pieces:
                    failures = 0
                    progress.check_time()
                    held += piece
                    while number <= last and len(held) >= (size := to.upload.span(number)[1]):
                        await _store(to, number, bytes(held[:size]), verifier)
                        del held[:size]
                        number += 1
                        await progress.add(size)
        except SourceAwayError as error:
            failures += 1
            if failures < _TRIES and not error.answered:
                continue
            if isinstance(error, ShortAnswerError):
                raise SourceError(f"{error}. Try again later, or ask who runs it.") from error
            raise


async def _store(to: Destination, number: int, data: bytes, verifier: "_Verifier | None") -> None:
    if verifier is not None:
        await asyncio.to_thread(verifier.update, data)
        if number == to.upload.count - 1:
            verifier.check()
    await put_part(to.store, to.upload, number, data)


class _Verifier:
    """Compares all bytes of a file with the digest that the source claims."""

    def __init__(self, host: str, file: SourceFile) -> None:
        self._host = host
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Blocks."""
        (self._git if self._file.sha256 is None else self._sha256).update(data)

    def check(self) -> None:
        claimed, found = (
            (self._file.git_oid, self._git.hexdigest())
            if self._file.sha256 is None
            else (self._file.sha256, self._sha256.hexdigest())
        )
        if claimed not in {None, found}:
            raise SourceError(
                f"`{self._host}` sent bytes of {printable(self._file.path)} that do not match the digest in its list. "
                "Try again later, or ask who runs it."
            )


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last number of each run of consecutive numbers."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1]
            start = at
