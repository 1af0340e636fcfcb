"""Reads the files of a version that lies in place, once, where they lie.

Each batch that was read is stored, so that a killed job goes on after it. Nothing but the present batch is in memory.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from modelshare.server.http import Platform
from modelshare.server.jobs import Lease, lease_is_valid
from modelshare.server.registry import queries as models
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.in_place import queries
from modelshare.server.registry.processing.load_job import ProcessingJob
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.tables import BlobRow, FileRow, RegisteredFileRow
from modelshare.server.storage.pins import pinned_key
from modelshare.server.storage_errors import BlobChangedError, BlobNotFoundError

_AT_ONCE: Final = 8
"""Small files wait for the bucket, not for a core."""
_BATCH_FILES: Final = 200
_BATCH_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class _Read:
    path: str
    size: int
    sha256: str
    pin: str


async def read_in_place(platform: Platform, lease: Lease, job: ProcessingJob) -> None:
    """Raises ModelRejectedError if a file is not what was registered."""
    async with platform.database.read() as session:
        unread = await queries.unread(session, job.version_id)
    for batch in _batches(unread):
        store: Any = await platform.stores.get(batch[0].storage)
        started = platform.now()

        async def read(file: RegisteredFileRow, store: Any = store) -> _Read:
            try:
                pin, _ = await store.pin(file.path, file.etag)
                sha256, size = await store.digest(pinned_key(str(pin), file.path))
            except BlobNotFoundError as error:
                what = "was replaced" if isinstance(error, BlobChangedError) else "was deleted"
                raise ModelRejectedError(
                    f"{printable(file.path)} {what} while the model was being registered. Register it again."
                ) from error
            return _Read(file.path, size, sha256, str(pin))

        found = await map_concurrently(read, batch, limit=_AT_ONCE)
        if not await _keep(platform, lease, job, batch[0].storage, found, started):
            return


async def as_they_are(platform: Platform, files: Sequence[StoredFile]) -> list[StoredFile]:
    """The same files, those in place with the pins of what lies there now, if they were replaced: still unread."""
    in_place = [file for file in files if file.pin is not None and file.key == pinned_key(file.pin, file.path)]
    pins: dict[str, str] = {}
    for storage in sorted({file.storage for file in in_place}):
        store: Any = await platform.stores.get(storage)
        there = {file.key: file for file in in_place if file.storage == storage}
        for key in await store.changes(list(there)):
            with contextlib.suppress(BlobNotFoundError):
                pin, _ = await store.pin(there[key].path)
                pins[key] = str(pin)
    return [
        replace(file, key=pinned_key(pins[file.key], file.path), pin=pins[file.key]) if file.key in pins else file
        for file in files
    ]


async def keep_pins(platform: Platform, lease: Lease, job: ProcessingJob, files: Sequence[StoredFile]) -> None:
    """These are the published bytes, as was just verified."""
    pins = {file.path: file.pin for file in files if file.pin is not None}
    if not pins:
        return
    async with platform.database.write() as session:
        if await models.lock_model(session, job.model_id) and await lease_is_valid(session, lease):
            for row in await queries.read(session, job.version_id):
                if row.pin is not None:
                    row.pin = pins[row.path]


async def _keep(
    platform: Platform, lease: Lease, job: ProcessingJob, storage: str, found: Sequence[_Read], at: int
) -> bool:
    """Stores what was read; False if the version is gone or another worker has the job."""
    async with platform.database.write() as session:
        await blobs.lock_project(session, job.project_id)
        if not await models.lock_model(session, job.model_id) or not await lease_is_valid(session, lease):
            return False
        known = await blobs.stored_blobs(session, job.project_id, storage, (file.sha256 for file in found))
        for file in found:
            if (blob := known.get(file.sha256)) is None:
                blob = known[file.sha256] = BlobRow(project_id=job.project_id, storage=storage, sha256=file.sha256)
                blob.size, blob.created_at = file.size, at
                session.add(blob)
            blob.key, blob.pin, blob.proven_at = pinned_key(file.pin, file.path), file.pin, at
        await session.flush()
        session.add_all(
            FileRow(
                version_id=job.version_id,
                path=file.path,
                project_id=job.project_id,
                storage=storage,
                sha256=file.sha256,
                size=file.size,
                pin=file.pin,
            )
            for file in found
        )
        await queries.delete_unread(session, job.version_id, [file.path for file in found])
    return True


def _batches(files: Sequence[RegisteredFileRow]) -> Iterator[list[RegisteredFileRow]]:
    batch: list[RegisteredFileRow] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= _BATCH_FILES or size + file.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
