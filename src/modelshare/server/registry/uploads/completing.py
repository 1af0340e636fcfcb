"""Completes an upload: checks that all parts are stored and match the digests that the client computed."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import ApiError, ConflictError, InvalidRequestError
from modelshare.server.http import Caller, Platform
from modelshare.server.registry import queries as models
from modelshare.server.registry import versions
from modelshare.server.registry.blobs.staging import multipart_of
from modelshare.server.registry.refused import printable
from modelshare.server.registry.tables import UploadFileRow, UploadRow, VersionRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.progress import file_views, view
from modelshare.server.registry.uploads.service import find, latest_note, record, require_open
from modelshare.server.storage.base import BlobStore, Multipart
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import ModelStatus
from modelshare.wire.uploads import FileDigest, Upload, UploadFile, UploadState, digest_of_parts


async def complete(platform: Platform, caller: Caller, upload_id: str, digests: Sequence[FileDigest]) -> Upload:
    """Hands the files over to processing. 409 while parts are missing, or if a file does not match `digests`.

    Safe to repeat with the same files.
    """
    async with platform.database.read() as session:
        row = await find(session, caller, upload_id)
    if row.state == UploadState.COMPLETED:
        _check_same_digests(row, digests)
    else:
        require_open(row)
        claims = _claims(row, digests)
        await _hand_over(platform, caller, row, claims)
        row.state = UploadState.COMPLETED
    async with platform.database.read() as session:
        note = await latest_note(session, row.model_id, row.version_id)
    return (await view(platform, row)).model_copy(update={"latest_note": note})


def _check_same_digests(row: UploadRow, digests: Sequence[FileDigest]) -> None:
    """Raises ConflictError if another client completed the upload with different bytes."""
    known = row.digests or {}
    for digest in digests:
        theirs = known.get(str(digest.n), {})
        if any(theirs.get(name, value) != value for name, value in _given_digests(digest).items()):
            raise ConflictError(
                f"Another push completed this upload with different bytes in its file {digest.n}. Push again to "
                "create your own version.",
                code=ErrorCode.CHECKSUM_MISMATCH,
                param="files",
            )


def _given_digests(digest: FileDigest) -> dict[str, str]:
    return digest.model_dump(exclude={"n"}, exclude_none=True)


def _claims(row: UploadRow, digests: Sequence[FileDigest]) -> dict[int, FileDigest]:
    """The digests by number of the file. Raises InvalidRequestError for a number that does not exist."""
    claims = {digest.n: digest for digest in digests}
    if unknown := claims.keys() - {file.n for file in row.files}:
        raise InvalidRequestError(f"This upload has no file {min(unknown)}.", param="files")
    return claims


async def _hand_over(platform: Platform, caller: Caller, row: UploadRow, claims: dict[int, FileDigest]) -> None:
    store = await platform.stores.get(row.storage)
    multiparts = [multipart_of(row, file) for file in row.files if file.multipart_id]
    is_handed_over = False
    try:
        await _seal(store, multiparts, sealed=True)
        views = await file_views(store, row)
        _require_all_parts(views)
        new_digests = _compare(row, views, claims, is_direct=store.direct)
        async with platform.database.write() as session:
            await models.lock_model(session, row.model_id)
            locked = await queries.lock_upload(session, row.id)
            if locked.state != UploadState.COMPLETED:
                require_open(locked)
                locked.digests = {str(n): _given_digests(claim) for n, claim in claims.items()}
                await _complete(session, platform, caller, locked, new_digests)
                is_handed_over = True
    except BaseException:
        # The commit may have succeeded even if it raised. Unsealing a completed upload would let its bytes change.
        if not is_handed_over or await _is_open(platform, caller, row):
            await _seal(store, multiparts, sealed=False)
        raise
    if not is_handed_over:  # another request completed the upload, and holds a seal of its own
        await _seal(store, multiparts, sealed=False)


async def _is_open(platform: Platform, caller: Caller, row: UploadRow) -> bool:
    async with platform.database.read() as session:
        return (await find(session, caller, str(row.id))).state == UploadState.OPEN


async def _seal(store: BlobStore, uploads: Sequence[Multipart], *, sealed: bool) -> None:
    """Does nothing for a bucket, which accepts parts as long as their URLs are valid: processing reads all files
    again."""
    if not store.direct:
        await (store.seal(uploads) if sealed else store.unseal(uploads))


def _require_all_parts(files: Sequence[UploadFile]) -> None:
    missing = [(file, k) for file in files for k in sorted(set(range(file.parts)) - set(file.parts_done))]
    if missing:
        file, k = missing[0]
        others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise ConflictError(
            f"Part {k} of {printable(file.path)}{others} is missing. Send it, then complete again.", param="files"
        )


def _compare(
    row: UploadRow, files: Sequence[UploadFile], claims: dict[int, FileDigest], *, is_direct: bool
) -> dict[int, str]:
    """Returns the SHA-256 of whole files for processing to verify. Raises ConflictError for the first mismatch.

    Where a store that serves parts does not know their digests, processing compares those, too.
    """
    new_digests = {}
    for file, view_of in zip(row.files, files, strict=True):
        if (claim := claims.get(file.n)) is None:
            continue
        parts = [view_of.parts_sha256[k] for k in sorted(view_of.parts_sha256)]
        is_unknown = len(parts) < len(view_of.parts_done) and not (view_of.reused or is_direct)
        if claim.sha256 is None and len(parts) < view_of.parts and not is_unknown:
            raise _no_part_digests(file, view_of)
        known = file.sha256 if file.reused else parts[0] if len(parts) == 1 == view_of.parts else file.sha256
        differs = claim.sha256 is not None and known is not None and claim.sha256 != known
        if parts and not is_unknown and claim.parts_sha256 is not None and claim.parts_sha256 != digest_of_parts(parts):
            differs = True
        if differs:
            raise ConflictError(
                f"{printable(file.path)} changed while it was being pushed, so the uploaded bytes do not match. "
                "Push again when no program is writing to it.",
                code=ErrorCode.CHECKSUM_MISMATCH,
                param="files",
            )
        if claim.sha256 is not None and not file.reused:
            new_digests[file.n] = claim.sha256
    return new_digests


def _no_part_digests(file: UploadFileRow, view_of: UploadFile) -> ApiError:
    """The error for a digest of parts that the server cannot verify."""
    path = printable(file.path)
    if view_of.reused:
        return ConflictError(
            f"{path} was taken from the project's storage while it was also being sent. Push again.",
            param="files",
        )
    return InvalidRequestError(
        f"{path} was uploaded directly to the bucket, which reports no digests of parts: send the `sha256` of "
        "the whole file.",
        param="files",
    )


async def _complete(
    session: AsyncSession, platform: Platform, caller: Caller, row: UploadRow, new_digests: dict[int, str]
) -> None:
    assert row.version_id is not None  # noqa: S101 - the version of an open session is deleted only with the session
    version = await session.get_one(VersionRow, row.version_id)
    row.state = UploadState.COMPLETED
    version.status = ModelStatus.PROCESSING
    await queries.claim(session, row.id, new_digests)
    await versions.request_processing(session, version.id, now=platform.now())
    record(session, "upload.complete", row, caller.actor, platform.now())
