"""Copies stored bytes from one storage to another: streamed, verified, and resumed where an earlier run stopped."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final

from modelshare.server.http import Platform
from modelshare.server.registry.moves import queries
from modelshare.server.registry.moves.tables import MoveFileRow
from modelshare.server.registry.service import StoredFile
from modelshare.server.storage.base import BlobStore, Multipart, fit_part_size
from modelshare.server.storage.digest import read_ahead
from modelshare.server.storage_errors import BlobNotFoundError, MultipartNotFoundError
from modelshare.wire.storage import MoveState

PART: Final = 8 << 20
"""Bytes of a part; a copy in progress holds about four parts in memory."""
_READ_AHEAD: Final = 2
_REPORT_SECONDS: Final = 2.0


class MoveEndedError(Exception):
    """The move cannot continue: it was cancelled, its version deleted, or it is impossible."""

    def __init__(self, state: MoveState, reason: str | None) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


@dataclass(slots=True)
class Progress:
    """Stores how far a move is, now and then. What is read again after an interruption does not set it back."""

    platform: Platform
    move_id: uuid.UUID
    done: int
    before: int
    """As stored by an earlier run."""
    _reported: float = field(default=0.0)

    async def add(self, size: int) -> None:
        """Raises MoveEndedError if the move was cancelled."""
        self.done += size
        now = asyncio.get_running_loop().time()
        if now < self._reported + _REPORT_SECONDS:
            return
        self._reported = now
        async with self.platform.database.write() as session:
            if not await queries.report(session, self.move_id, max(self.before, self.done)):
                raise MoveEndedError(MoveState.CANCELLED, None)


def prefix(project_id: str, move_id: uuid.UUID) -> str:
    """Common prefix of what a move stores."""
    return f"{project_id}/{move_id.hex}/"


async def copy_file(
    platform: Platform, file: StoredFile, project_id: str, storage: str, known: MoveFileRow | None, progress: Progress
) -> None:
    """Copies one file's bytes and stores that they are there. Raises MoveEndedError if their digest is wrong."""
    source, target = await platform.stores.get(file.storage), await platform.stores.get(storage)
    copy = known
    if copy is not None and not await _is_open(target, copy):
        if await _is_complete(target, copy):
            await _store(platform, copy, is_copied=True)
            await progress.add(copy.size)
            return
        copy = None
    if copy is None:
        copy = await _begin(platform, target, file, prefix(project_id, progress.move_id), progress.move_id)
    upload = _multipart(copy)
    before = progress.done
    if await _copy(source, file, target, upload, progress) != file.sha256:
        raise MoveEndedError(
            MoveState.FAILED,
            f"The stored bytes of {file.path} no longer match their digest, so nothing was moved. Push the version "
            "again.",
        )
    try:
        await target.finish(upload)
    except MultipartNotFoundError:
        progress.done = before
        raise
    await _store(platform, copy, is_copied=True)


async def _copy(source: BlobStore, file: StoredFile, target: BlobStore, upload: Multipart, progress: Progress) -> str:
    """Sends the parts that the target lacks; returns the digest of all bytes as read now."""
    there = {part.number: part.etag.strip('"') for part in await target.list_parts(upload)}
    reader = await asyncio.to_thread(source.reader, file.key)
    hasher = hashlib.sha256()
    number = 0
    async with aclosing(read_ahead(reader, step=upload.part_size, ahead=_READ_AHEAD)) as chunks:
        async for chunk in chunks:
            digest = await asyncio.to_thread(_hash, hasher, chunk)
            if number not in there or not await asyncio.to_thread(_is_etag_of, there[number], chunk, digest):
                if target.direct:
                    await target.put_part(upload, number, chunk)
                else:
                    await target.write_part(upload, number, _once(chunk), digest)
            number += 1
            await progress.add(len(chunk))
    return hasher.hexdigest()


async def _begin(
    platform: Platform, target: BlobStore, file: StoredFile, folder: str, move_id: uuid.UUID
) -> MoveFileRow:
    upload = await target.begin(f"{folder}{file.sha256}", file.size, fit_part_size(file.size, PART))
    copy = MoveFileRow(
        move_id=move_id,
        sha256=file.sha256,
        size=file.size,
        key=upload.key,
        multipart_id=upload.id,
        part_size=upload.part_size,
    )
    await _store(platform, copy, is_copied=False)
    return copy


async def _store(platform: Platform, copy: MoveFileRow, *, is_copied: bool) -> None:
    copy.is_copied = is_copied
    async with platform.database.write() as session:
        await queries.store_copy(session, copy)


async def _is_open(target: BlobStore, copy: MoveFileRow) -> bool:
    try:
        await target.list_parts(_multipart(copy))
    except MultipartNotFoundError:
        return False
    return True


async def _is_complete(target: BlobStore, copy: MoveFileRow) -> bool:
    """Whether an earlier run finished the copy and was then killed."""
    with suppress(BlobNotFoundError):
        return await target.digest(copy.key) == (copy.sha256, copy.size)
    return False


def _multipart(copy: MoveFileRow) -> Multipart:
    return Multipart(copy.key, copy.multipart_id, copy.size, copy.part_size)


def _hash(hasher: "hashlib._Hash", chunk: bytes) -> str:
    """Adds the chunk; returns its own digest."""
    hasher.update(chunk)
    return hashlib.sha256(chunk).hexdigest()


def _is_etag_of(etag: str, chunk: bytes, sha256: str) -> bool:
    """Whether the stored part has these bytes. Buckets say MD5, unless they encrypt with a customer's key."""
    return etag in {sha256, hashlib.md5(chunk, usedforsecurity=False).hexdigest()}


async def _once(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
