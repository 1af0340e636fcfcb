"""From what a session brought to blobs: put together, unpacked, hashed, compared with what the client claimed.

All or nothing: until the last step nothing but the session refers to the bytes, so each step can simply run again.
"""

from modelshare.server.http import Platform
from modelshare.server.jobs import Lease
from modelshare.server.registry.blobs.staging import multipart_of
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.processing.keeping import Arrived, keep
from modelshare.server.registry.processing.unpacking import unpack
from modelshare.server.registry.processing.work import Work
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.storage.base import Proof

FILES_AT_ONCE = 2
"""Hashed in parallel: SHA-256 runs at the speed of one core."""


async def ingest(platform: Platform, lease: Lease, work: Work, upload: UploadRow) -> None:
    """Makes blobs of the session's files and lists them as the version's. Raises Refused."""
    proofs = await _finish(platform, upload)

    async def arrive(file: UploadFileRow) -> Arrived:
        return await _arrive(platform, file, proofs.get(file.n))

    left_out = None
    if upload.archive is not None:
        [archive] = upload.files
        if archive.sha256 is not None:
            await arrive(archive)
        arrived, left_out = await unpack(platform, upload, archive.key, work.selection)
    else:
        arrived = await map_concurrently(arrive, upload.files, limit=FILES_AT_ONCE)
    await keep(platform, lease, work, upload, arrived, left_out)


async def _finish(platform: Platform, upload: UploadRow) -> dict[int, Proof | None]:
    """By number of the file, those that are not reused."""
    store = platform.store
    multiparts = {file.n: multipart_of(upload, file) for file in upload.files if not file.reused}
    for n, multipart in multiparts.items():
        if not multipart.id:  # an empty file has no part that would have begun it
            multiparts[n] = await store.begin(multipart.key, multipart.size, upload.part_size)
    if store.direct:
        return {n: await store.finish(multipart) for n, multipart in multiparts.items()}
    return dict(zip(multiparts, await store.finish_all(list(multiparts.values())), strict=True))


async def _arrive(platform: Platform, file: UploadFileRow, proof: Proof | None) -> Arrived:
    """`proof`: what was hashed while it came in, and is not read again."""
    if file.reused:
        assert file.sha256 is not None  # noqa: S101 - a file is reused by its digest
        return Arrived(file.path, file.size, file.sha256, key=None, proven_at=platform.now())
    if proof is None:
        sha256, size = await platform.store.digest(file.key)
        proof = Proof(sha256, size, platform.now())
    sha256 = proof.sha256
    if file.sha256 not in {None, sha256}:
        raise ModelRejectedError(
            f"{printable(file.path)} does not match its announced SHA-256: it has {sha256}. Push it again."
        )
    return Arrived(file.path, proof.size, sha256, key=file.key, proven_at=int(proof.at))
