"""Turns the files of an upload into blobs of its project: assembles or unpacks them, hashes them, compares the digests
with those from the client, and keeps one blob for each content.

Only the upload refers to the bytes until the last step, which is one transaction. So a killed job can be repeated.
"""

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.service import quota_of
from modelshare.server.http import Platform
from modelshare.server.jobs import Lease, lease_is_valid
from modelshare.server.registry import queries as models
from modelshare.server.registry.archive import ExtractedFile, extract, kind_of
from modelshare.server.registry.archive_selection import ArchiveSelection
from modelshare.server.registry.blobs import disposal, staging
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.processing.load_job import ProcessingJob
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.tables import DAMAGED, LEFT_OUT, BlobRow, FileRow, UploadFileRow, UploadRow, VersionRow
from modelshare.server.storage.base import Assembled, BlobStore, Proof
from modelshare.server.storage.local import KEEP_FREE
from modelshare.server.storage.stores import PLATFORM
from modelshare.wire.left_out import IGNORE_FILE, LeftOut, Selection, ignore_file_lines, note
from modelshare.wire.uploads import digest_of_parts

FILES_AT_ONCE = 2
"""Files hashed in parallel, each on one core."""


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that arrived. The server has hashed its bytes itself, unless its owner's bucket vouches for them."""

    path: str
    size: int
    sha256: str
    key: str | None
    """The key in storage; None if the project already has a blob of the same content."""
    proven_at: int | None
    """When the server hashed it, in Unix seconds; None if it did not."""


async def store_blobs(platform: Platform, lease: Lease, job: ProcessingJob, upload: UploadRow) -> None:
    """Turns the session's files into blobs and into files of the version. Raises ModelRejectedError."""
    store = await platform.stores.get(upload.storage)
    proofs = await _finish_multiparts(store, upload)

    async def receive(file: UploadFileRow) -> ReceivedFile:
        return await _receive(platform, store, upload, file, proofs.get(file.n))

    left_out = None
    if upload.archive is not None:
        [archive] = upload.files
        if archive.sha256 is not None:
            await receive(archive)
        received, left_out = await _unpack(platform, store, upload, job.selection)
    else:
        received = await map_concurrently(receive, upload.files, limit=FILES_AT_ONCE)
    await _store(platform, lease, job, upload, received, left_out)


async def _finish_multiparts(store: BlobStore, upload: UploadRow) -> dict[int, Proof | Assembled | None]:
    """Assembles the files that are not reused. Returns what the store knows of each, by number of the file.

    Files with the same content may share one multipart upload, which was sent before the session was opened.
    """
    multiparts = {file.n: staging.multipart_of(upload, file) for file in upload.files if not file.reused}
    for n, multipart in multiparts.items():
        if not multipart.id:  # an empty file has no part that would have opened its upload
            multiparts[n] = await store.begin(multipart.key, multipart.size, upload.part_size)
    distinct = {multipart.key: multipart for multipart in multiparts.values()}
    proofs: dict[str, Proof | Assembled | None]
    if store.direct:
        proofs = {key: await store.finish(multipart) for key, multipart in distinct.items()}
    else:
        proofs = dict(zip(distinct, await store.finish_all(list(distinct.values())), strict=True))
    return {n: proofs[multipart.key] for n, multipart in multiparts.items()}


async def _receive(
    platform: Platform, store: BlobStore, upload: UploadRow, file: UploadFileRow, proof: Proof | Assembled | None
) -> ReceivedFile:
    """Hashes the file, unless it was hashed during the upload (`proof`), and compares the digest with the client's.

    A file in its owner's bucket, which its owner can change at any time anyway, is not read if the bucket has the
    parts that the client has read: then the digest is the owner's word.
    """
    if file.reused:
        assert file.sha256 is not None  # noqa: S101 - a file is reused by its digest
        return ReceivedFile(file.path, file.size, file.sha256, key=None, proven_at=platform.now())
    claims = (upload.digests or {}).get(str(file.n), {})
    if isinstance(proof, Assembled):
        is_owners = upload.storage != PLATFORM and file.sha256 is not None and upload.archive is None
        if is_owners and claims.get("parts_md5") == proof.parts_md5:
            return ReceivedFile(file.path, file.size, str(file.sha256), key=file.key, proven_at=None)
        proof = None
    if proof is None:
        parts = _PartDigests(upload.part_size)
        claim = claims.get("parts_sha256")
        sha256, size = await store.digest(file.key, also=None if claim is None or store.direct else parts.update)
        if claim is not None and not store.direct and parts.finish() != claim:
            raise ModelRejectedError(f"{printable(file.path)} changed while it was being pushed. Push it again.")
        proof = Proof(sha256, size, platform.now())
    sha256 = proof.sha256
    if file.sha256 not in {None, sha256}:
        raise ModelRejectedError(
            f"{printable(file.path)} does not match its announced SHA-256: it has {sha256}. Push it again."
        )
    return ReceivedFile(file.path, proof.size, sha256, key=file.key, proven_at=int(proof.at))


class _PartDigests:
    """Computes `FileDigest.parts_sha256` of a file that arrives in chunks."""

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._left = part_size
        self._hash = hashlib.sha256()
        self._digests: list[str] = []

    def update(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            piece, rest = rest[: self._left], rest[self._left :]
            self._hash.update(piece)
            self._left -= len(piece)
            if not self._left:
                self._end_part()

    def finish(self) -> str:
        if self._left < self._part_size:
            self._end_part()
        return digest_of_parts(self._digests)

    def _end_part(self) -> None:
        self._digests.append(self._hash.hexdigest())
        self._hash, self._left = hashlib.sha256(), self._part_size


async def _unpack(
    platform: Platform, store: BlobStore, upload: UploadRow, selection: Selection
) -> tuple[list[ReceivedFile], str | None]:
    """Unpacks the session's archive within the project's quota. Returns its files, and a note about files left out.

    Raises ModelRejectedError if the archive is invalid or too large.
    """
    assert upload.archive is not None  # noqa: S101 - called only for archives
    max_bytes = await _available_bytes(platform, upload)
    folder = platform.settings.data_dir.absolute() / "unpacking" / upload.id.hex
    try:
        async with store.local_copy(upload.files[0].key) as archive:
            extracted, left_out = await asyncio.to_thread(
                _extract, archive, upload.archive, folder, max_bytes, selection
            )
        received = [await _put_file(platform, store, upload, n, folder, file) for n, file in enumerate(extracted)]
        return received, note(left_out)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _extract(
    archive: Path, name: str, folder: Path, max_bytes: int, selection: Selection
) -> tuple[list[ExtractedFile], Sequence[LeftOut]]:
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    folder.mkdir(mode=0o700, parents=True)
    named = folder / name  # so that errors contain the name that its owner knows
    named.symlink_to(archive)
    chosen = ArchiveSelection(selection)
    try:
        files = extract(named, kind_of(name), folder / "files", max_bytes=max_bytes, chosen=chosen)
        again = chosen.again(_ignore_lines(folder / "files", files))
    except ModelRejectedError:
        again = chosen.again(None) if chosen.top is None else None
        if again is None:
            raise
    if again is not None:
        shutil.rmtree(folder / "files", ignore_errors=True)
        chosen = again
        files = extract(named, kind_of(name), folder / "files", max_bytes=max_bytes, chosen=chosen)
    return files, chosen.left_out


def _ignore_lines(folder: Path, files: Sequence[ExtractedFile]) -> Sequence[str] | None:
    """The lines of the ignore file in the top folder; None if no folder has an ignore file."""
    if not any(file.path.rpartition("/")[2] == IGNORE_FILE for file in files):
        return None
    try:
        return ignore_file_lines(folder)
    except ValueError as error:
        raise ModelRejectedError(f"{error}. Write it again, and push again.") from error


async def _put_file(
    platform: Platform, store: BlobStore, upload: UploadRow, n: int, folder: Path, file: ExtractedFile
) -> ReceivedFile:
    key = staging.unpacked_key(upload.project_id, upload.id, n)
    await store.put_file(key, folder / "files" / file.path)
    return ReceivedFile(file.path, file.size, file.sha256, key=key, proven_at=platform.now())


async def _available_bytes(platform: Platform, upload: UploadRow) -> int:
    """Bytes that the project's quota and the disk allow, not counting the archive, which is deleted afterwards."""
    disk = await asyncio.to_thread(shutil.disk_usage, platform.settings.data_dir)
    free = disk.free - KEEP_FREE
    if upload.storage != PLATFORM:
        return max(0, free)
    async with platform.database.read() as session:
        project = await blobs.project(session, upload.project_id)
        used = await blobs.stored_bytes(session, upload.project_id) - upload.bytes_total
    return max(0, min(quota_of(project, platform.settings) - used, free))


async def _store(
    platform: Platform,
    lease: Lease,
    job: ProcessingJob,
    upload: UploadRow,
    files: Sequence[ReceivedFile],
    left_out: str | None = None,
) -> None:
    """Adds the files to the version. Discards the archive, and bytes that the project already stores.

    `left_out`: a note for the version's owner.
    """
    now = platform.now()
    async with platform.database.write() as session:
        await blobs.lock_project(session, job.project_id)
        if not await models.lock_model(session, job.model_id):
            left = staging.prefixes(job.project_id, upload.id, (file.key for file in upload.files))
            await disposal.discard(session, upload, left, now=now)
            return
        if not await lease_is_valid(session, lease):
            return
        if left_out is not None:
            version = await session.get_one(VersionRow, job.version_id)
            version.facts = version.facts | {LEFT_OUT: left_out}
        stored = await blobs.stored_blobs(session, upload.project_id, upload.storage, (file.sha256 for file in files))
        unneeded = await _add_blobs(session, upload, files, stored, now)
        if upload.storage != PLATFORM and any(blob.proven_at is None for blob in stored.values()):
            (await session.get_one(VersionRow, job.version_id)).digests = "owner"
        if upload.archive is not None:
            unneeded.append(upload.files[0].key)
        session.add_all(
            FileRow(
                version_id=job.version_id,
                path=file.path,
                project_id=job.project_id,
                storage=upload.storage,
                sha256=file.sha256,
                size=file.size,
            )
            for file in files
        )
        await blobs.delete_staged_files(session, upload.id)
        if unneeded:
            await disposal.discard(session, upload, unneeded, now=now)


async def _add_blobs(
    session: AsyncSession,
    upload: UploadRow,
    files: Sequence[ReceivedFile],
    known_blobs: dict[str, BlobRow],
    now: int,
) -> list[str]:
    """Adds new blobs, also to those that are known, by digest. Returns the keys of bytes that are stored already."""
    unneeded = []
    for file in files:
        known = known_blobs.get(file.sha256)
        if known is None and file.key is not None:
            blob = BlobRow(
                project_id=upload.project_id,
                storage=upload.storage,
                sha256=file.sha256,
                size=file.size,
                key=file.key,
                created_at=now,
                proven_at=file.proven_at,
            )
            session.add(blob)
            known_blobs[file.sha256] = blob
        elif known is not None and file.key is not None and file.key != known.key:
            if known.proven_at == DAMAGED:
                unneeded.append(known.key)
                known.key, known.proven_at = file.key, file.proven_at
            else:
                unneeded.append(file.key)
    await session.flush()
    return unneeded
