"""Receives a part of a file, or returns URLs for sending parts directly to the bucket."""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace

from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import parse_uuid
from modelshare.server.registry.blobs import disposal, staging
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.refused import printable
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.service import no_such_upload, require_open
from modelshare.server.storage.base import Inflow, Multipart
from modelshare.wire.errors import ErrorCode
from modelshare.wire.uploads import DEFERRED, PartDone, PartUrl, UploadState

PART_URL_SECONDS = 3600
"""Validity of a presigned PUT: enough for 64 MiB over a slow connection."""
_OPENED_AT_ONCE = 16
"""A bucket is asked for each file."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


async def receive(
    platform: Platform,
    caller: Caller,
    upload_id: str,
    n: int,
    k: int,
    chunks: AsyncIterator[bytes] | Inflow,
    *,
    sha256: str | None,
    length: int | None,
) -> PartDone:
    """Stores part `k` of file `n` as it streams in. Safe to repeat; a part that is rejected changes nothing.

    If `sha256` is DEFERRED, the client compares the digest itself. `length` is the Content-Length, if there is one.
    """
    if sha256 is None or not (_SHA256.fullmatch(sha256.lower()) or sha256 == DEFERRED):
        raise InvalidRequestError(
            "Send the part's SHA-256 in the header X-Checksum-SHA256, as 64 hex digits.", param="X-Checksum-SHA256"
        )
    upload, files = await find_files(platform, caller, upload_id, [n])
    file = files[n]
    store = await platform.stores.get(upload.storage)
    if store.direct:
        raise InvalidRequestError(
            f"Parts of this upload go to the bucket. Use POST /v1/uploads/{upload.id}/files/{n}/parts/{k}/url."
        )
    _, size = staging.multipart_of(upload, file).span(k)
    if length is not None and length != size:
        raise InvalidRequestError(f"Part {k} of {printable(file.path)} must have {size:,} bytes, not {length:,}.")
    begun = await begin(platform, upload, [file])
    part = await store.write_part(begun[n], k, chunks, None if sha256 == DEFERRED else sha256.lower())
    await keep_open(platform, upload)
    return PartDone(n=n, k=k, size=part.size, sha256=part.etag)


async def part_urls(
    platform: Platform, caller: Caller, upload_id: str, wanted: Sequence[tuple[int, int]]
) -> list[PartUrl]:
    """Presigned PUTs of these parts, given as file and part, in their order, for a bucket."""
    upload, files = await find_files(platform, caller, upload_id, {n for n, _ in wanted})
    store = await platform.stores.get(upload.storage)
    if not store.direct:
        n, k = wanted[0]
        raise InvalidRequestError(
            f"Parts of this upload go to the server. Use PUT /v1/uploads/{upload.id}/files/{n}/parts/{k}."
        )
    for n, k in wanted:
        staging.multipart_of(upload, files[n]).span(k)
    expires_at = platform.now() + PART_URL_SECONDS
    begun = await begin(platform, upload, list(files.values()))

    def sign(n: int, k: int) -> PartUrl:
        signed = store.part_url(begun[n], k, expires_at=expires_at)
        return PartUrl(url=signed.url, headers=dict(signed.headers), expires_at=signed.expires_at or expires_at)

    urls = await asyncio.to_thread(lambda: [sign(n, k) for n, k in wanted])
    await keep_open(platform, upload)
    return urls


async def find_files(
    platform: Platform, caller: Caller, upload_id: str, numbers: Collection[int]
) -> tuple[UploadRow, Mapping[int, UploadFileRow]]:
    """An open upload, and its files with these numbers, all of which have to be sent."""
    uid = parse_uuid(upload_id)
    async with platform.database.read() as session:
        found = await queries.upload_with(session, caller.project, uid, numbers) if uid else None
    if found is None:
        raise no_such_upload()
    upload, rows = found
    require_open(upload)
    files = {row.n: row for row in rows}
    if unknown := sorted(set(numbers) - files.keys()):
        raise NotFoundError(f"This upload has no file {unknown[0]}. GET /v1/uploads/{upload.id} lists its files.")
    for file in rows:
        if file.reused:
            raise ConflictError(f"{printable(file.path)} is already stored and need not be sent.")
    return upload, files


async def begin(platform: Platform, upload: UploadRow, files: Sequence[UploadFileRow]) -> dict[int, Multipart]:
    """The storage's uploads of the files, by number; opens those that do not exist yet."""
    store = await platform.stores.get(upload.storage)
    uploads = {file.n: staging.multipart_of(upload, file) for file in files}
    new = [each for each in uploads.values() if not each.id]
    if not new:
        return uploads
    if store.direct:
        opened = await map_concurrently(
            lambda each: store.begin(each.key, each.size, each.part_size), new, limit=_OPENED_AT_ONCE
        )
    else:
        opened = await store.begin_all(new)
    mine = dict(zip((n for n, each in uploads.items() if not each.id), opened, strict=True))
    async with platform.database.write() as session:
        winners = await queries.begin_files(session, upload.id, {n: each.id for n, each in mine.items()})
    for n, each in mine.items():
        if winners.get(n) != each.id:
            await store.abort(each)
        if not winners.get(n):
            raise ConflictError("This upload has just changed. GET /v1/uploads/{id} lists what is missing.")
        uploads[n] = replace(each, id=winners[n])
    return uploads


async def keep_open(platform: Platform, upload: UploadRow) -> None:
    """Postpones the session's expiry. If the session has ended meanwhile, deletes the new bytes and raises 409."""
    async with platform.database.write() as session:
        row = await queries.lock_upload(session, upload.id)
        if row.state == UploadState.OPEN:
            row.expires_at = platform.now() + platform.settings.uploads_expire_seconds
            return
        if row.state != UploadState.COMPLETED:
            staged = staging.prefix(row.project_id, row.id)
            await disposal.discard(session, row, [staged], now=platform.now())
    raise ConflictError(f"This upload is {row.state}. Push again to open a new one.", code=ErrorCode.UPLOAD_NOT_OPEN)
