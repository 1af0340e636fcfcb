"""One part of one file: through this server into the storage, or a URL to send it to the bucket directly."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace

from sqlalchemy import update

from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import parse_uuid
from modelshare.server.registry.blobs import disposal, staging
from modelshare.server.registry.refused import printable
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.service import no_such_upload, require_open
from modelshare.server.registry.uploads.storage_errors import storage_answers
from modelshare.server.storage.base import Inflow, Multipart
from modelshare.wire.errors import ErrorCode
from modelshare.wire.uploads import DEFERRED, PartDone, PartUrl, UploadState

PART_URL_SECONDS = 3600
"""How long a presigned PUT is valid: time for 64 MiB over a slow line."""
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
    """Stores part `k` of file `n` as it streams in. Safe to repeat; a part that is refused changes nothing.

    `sha256` may be DEFERRED: then nothing is compared here.
    """
    if sha256 is None or not (_SHA256.fullmatch(sha256.lower()) or sha256 == DEFERRED):
        raise InvalidRequestError(
            "Send the part's SHA-256 in the header X-Checksum-SHA256, as 64 hex digits.", param="X-Checksum-SHA256"
        )
    upload, file = await _find(platform, caller, upload_id, n)
    store = platform.store
    if store.direct:
        raise InvalidRequestError(
            f"Parts of this upload go to the bucket. Use POST /v1/uploads/{upload.id}/files/{n}/parts/{k}/url."
        )
    with storage_answers():
        _, size = staging.multipart_of(upload, file).span(k)
        if length is not None and length != size:
            raise InvalidRequestError(f"Part {k} of {printable(file.path)} must have {size:,} bytes, not {length:,}.")
        multipart = await _begun(platform, upload, file)
        part = await store.write_part(multipart, k, chunks, None if sha256 == DEFERRED else sha256.lower())
    await keep_open(platform, upload)
    return PartDone(n=n, k=k, size=part.size, sha256=part.etag)


async def part_url(platform: Platform, caller: Caller, upload_id: str, n: int, k: int) -> PartUrl:
    """Where the client PUTs part `k` of file `n`, in the owner's bucket."""
    upload, file = await _find(platform, caller, upload_id, n)
    store = platform.store
    if not store.direct:
        raise InvalidRequestError(
            f"Parts of this upload go to the server. Use PUT /v1/uploads/{upload.id}/files/{n}/parts/{k}."
        )
    expires_at = platform.now() + PART_URL_SECONDS
    with storage_answers():
        staging.multipart_of(upload, file).span(k)
        signed = store.part_url(await _begun(platform, upload, file), k, expires_at=expires_at)
    await keep_open(platform, upload)
    return PartUrl(url=signed.url, headers=dict(signed.headers), expires_at=expires_at)


async def _find(platform: Platform, caller: Caller, upload_id: str, n: int) -> tuple[UploadRow, UploadFileRow]:
    uid = parse_uuid(upload_id)
    async with platform.database.read() as session:
        found = await queries.upload_and_file(session, caller.project, uid, n) if uid else None
    if found is None:
        raise no_such_upload()
    upload, file = found
    require_open(upload)
    if file is None:
        raise NotFoundError(f"This upload has no file {n}. GET /v1/uploads/{upload.id} lists its files.")
    if file.reused:
        raise ConflictError(f"{printable(file.path)} is already stored, so none of its parts is needed.")
    return upload, file


async def _begun(platform: Platform, upload: UploadRow, file: UploadFileRow) -> Multipart:
    """The storage's upload of the file, begun with its first part."""
    wanted = staging.multipart_of(upload, file)
    if wanted.id:
        return wanted
    fresh = await platform.store.begin(file.key, file.size, upload.part_size)
    async with platform.database.write() as session:
        unclaimed = UploadFileRow.multipart_id == "", UploadFileRow.reused.is_(False)
        this = UploadFileRow.upload_id == file.upload_id, UploadFileRow.n == file.n
        await session.execute(update(UploadFileRow).where(*this, *unclaimed).values(multipart_id=fresh.id))
        now_there = await session.get(UploadFileRow, (file.upload_id, file.n), populate_existing=True)
        winner = now_there.multipart_id if now_there else ""
    if winner != fresh.id:
        await platform.store.abort(fresh)
    if not winner:
        raise ConflictError("This upload has just changed. GET /v1/uploads/{id} lists what is missing.")
    return replace(fresh, id=winner)


async def keep_open(platform: Platform, upload: UploadRow) -> None:
    """Puts off the session's expiry. What came after its end is deleted again."""
    async with platform.database.write() as session:
        row = await queries.lock_upload(session, upload.id)
        if row.state == UploadState.OPEN:
            row.expires_at = platform.now() + platform.settings.uploads_expire_seconds
            return
        if row.state != UploadState.COMPLETED:
            disposal.discard(session, row.project_id, [staging.prefix(row.project_id, row.id)])
            await disposal.collect_later(session, row.project_id, now=platform.now())
    raise ConflictError(f"This upload is {row.state}. Push again to open a new one.", code=ErrorCode.UPLOAD_NOT_OPEN)
