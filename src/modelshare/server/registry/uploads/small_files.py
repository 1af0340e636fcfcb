"""Receives many small complete files in one request, each preceded by its number, size and SHA-256."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import Caller, Platform
from modelshare.server.registry.refused import printable
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.registry.uploads.parts import begin, find_files, keep_open
from modelshare.server.storage_errors import ChecksumMismatchError
from modelshare.wire.uploads import BATCH_BYTES, BATCH_FILES, BATCH_HEAD, FilesDone, PartDone


@dataclass(frozen=True, slots=True)
class _SmallFile:
    n: int
    content: memoryview
    sha256: str


async def receive(platform: Platform, caller: Caller, upload_id: str, chunks: AsyncIterator[bytes]) -> FilesDone:
    """Stores all of the files, or none if one is invalid. Safe to repeat."""
    files = _split(await _read(chunks))
    upload, rows = await find_files(platform, caller, upload_id, {file.n for file in files})
    _check_sizes(upload, rows, files)
    store = await platform.stores.get(upload.storage)
    if store.direct:
        raise InvalidRequestError("Parts of this upload go to the bucket, one by one.")
    await asyncio.to_thread(_check_digests, files)
    begun = await begin(platform, upload, list(rows.values()))
    await store.write_files([(begun[file.n], file.content, file.sha256) for file in files])
    await keep_open(platform, upload)
    done = [PartDone(n=file.n, k=0, size=len(file.content), sha256=file.sha256) for file in files]
    return FilesDone(data=done)


async def _read(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > BATCH_BYTES:
            raise InvalidRequestError(
                f"One request may contain {BATCH_BYTES:,} bytes of small files. Send fewer per request."
            )
    return bytes(body)


def _split(body: bytes) -> list[_SmallFile]:
    files, at, rest = [], 0, memoryview(body)
    while at < len(body):
        if len(body) - at < BATCH_HEAD.size:
            raise _truncated()
        n, size, digest = BATCH_HEAD.unpack_from(body, at)
        at += BATCH_HEAD.size
        if size > len(body) - at:
            raise _truncated()
        files.append(_SmallFile(n, rest[at : at + size], digest.hex()))
        at += size
    if not files or len(files) > BATCH_FILES or len({file.n for file in files}) < len(files):
        raise InvalidRequestError(f"Send 1 to {BATCH_FILES} files per request, each only once.")
    return files


def _check_digests(files: Sequence[_SmallFile]) -> None:
    for file in files:
        if hashlib.sha256(file.content).hexdigest() != file.sha256:
            raise ChecksumMismatchError


def _truncated() -> InvalidRequestError:
    return InvalidRequestError("The request ends within a file. Send it again.")


def _check_sizes(upload: UploadRow, rows: Mapping[int, UploadFileRow], files: Sequence[_SmallFile]) -> None:
    for file in files:
        row, size = rows[file.n], len(file.content)
        if not size or size != row.size or size > upload.part_size:
            raise InvalidRequestError(f"{printable(row.path)} must have {row.size:,} bytes, not {size:,}.")
