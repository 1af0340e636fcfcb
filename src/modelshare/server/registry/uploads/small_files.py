"""Receives many small complete files in one request, each preceded by its number, size and SHA-256."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import parse_uuid
from modelshare.server.registry.refused import printable
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.parts import begin, keep_open
from modelshare.server.registry.uploads.service import no_such_upload, require_open
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
    upload, rows = await _find(platform, caller, upload_id, files)
    store = await platform.stores.get(upload.storage)
    if store.direct:
        raise InvalidRequestError("Parts of this upload go to the bucket, one by one.")
    await asyncio.to_thread(_check_digests, files)
    begun = await begin(platform, upload, rows)
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


async def _find(
    platform: Platform, caller: Caller, upload_id: str, files: Sequence[_SmallFile]
) -> tuple[UploadRow, list[UploadFileRow]]:
    uid = parse_uuid(upload_id)
    async with platform.database.read() as session:
        upload = await queries.upload_with(session, caller.project, uid, [file.n for file in files]) if uid else None
    if upload is None:
        raise no_such_upload()
    row, rows = upload
    require_open(row)
    known = {each.n: each for each in rows}
    for file in files:
        if (each := known.get(file.n)) is None:
            raise NotFoundError(f"This upload has no file {file.n}. GET /v1/uploads/{row.id} lists its files.")
        if each.reused:
            raise ConflictError(f"{printable(each.path)} is already stored and need not be sent.")
        size = len(file.content)
        if not size or size != each.size or size > row.part_size:
            raise InvalidRequestError(f"{printable(each.path)} must have {each.size:,} bytes, not {size:,}.")
    return row, list(rows)
