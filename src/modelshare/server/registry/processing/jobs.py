"""The jobs that make versions ready, in four steps: load, store blobs, inspect files, finish.

A job that was killed at any point can be repeated, with the same result.
"""

import uuid
from collections.abc import Mapping
from functools import partial

from modelshare.server.http import Platform
from modelshare.server.jobs import Handler, Lease, TryAgainError
from modelshare.server.outages import outage_of
from modelshare.server.registry.blobs.disposal import COLLECT, collect
from modelshare.server.registry.processing import finish
from modelshare.server.registry.processing.inspect_files import inspect_files, read_signature, verify_files
from modelshare.server.registry.processing.load_job import ProcessingJob, load_job, stored_files
from modelshare.server.registry.processing.read_in_place import as_they_are, keep_pins, read_in_place
from modelshare.server.registry.processing.store_blobs import store_blobs
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.versions import PROCESS, REVALIDATE
from modelshare.server.storage_errors import (
    BlobChangedError,
    BlobNotFoundError,
    HolderAwayError,
    MultipartNotFoundError,
    OwnStorageError,
    PartsMissingError,
    StorageRefusedError,
)
from modelshare.wire.models import ModelStatus

_GAVE_UP = (
    "The server could not read or store this version's files. Contact the platform's operator, then run `revalidate`."
)
_AWAY_SECONDS = 60
_CHANGED = (
    "A file was changed while this version was being checked. Restore it and run `modelshare models revalidate`, or "
    "publish the files as a new version."
)
_THEN = "When it works again, run `modelshare models revalidate`."
_INCOMPLETE = "Some of this version's bytes are missing in storage. Push it again."


def handlers(platform: Platform) -> Mapping[str, Handler]:
    """The handlers of the registry's jobs, by kind."""
    return {
        PROCESS: partial(process, platform, fresh=False),
        REVALIDATE: partial(process, platform, fresh=True),
        COLLECT: partial(collect, platform),
    }


async def process(platform: Platform, lease: Lease, *, fresh: bool) -> None:
    """Processes a version until it is ready or failed. `fresh`: also if it is ready; its blobs are read again."""
    job = await load_job(platform.database, uuid.UUID(lease.subject))
    if job is None or not (job.status == ModelStatus.PROCESSING or (fresh and job.status == ModelStatus.READY)):
        return
    if lease.attempts_exhausted:
        await _give_up(platform, lease, job)
        return
    try:
        await _steps(platform, lease, job, fresh=fresh)
    except Exception as error:
        if (reason := _reason(job, error)) is not None:
            await finish.failed(platform, lease, job, reason)
            return
        if isinstance(error, OwnStorageError | HolderAwayError):
            await finish.waits(platform, lease, job, str(error))
        if isinstance(error, HolderAwayError):  # it may take days; when it connects, the job runs at once
            raise TryAgainError(_AWAY_SECONDS) from error
        if lease.last and outage_of(error) is None:
            await _give_up(platform, lease, job)
        raise


def _reason(job: ProcessingJob, error: Exception) -> str | None:
    """Why the version fails; None where another attempt may succeed."""
    match error:
        case ModelRejectedError():
            return error.reason
        case BlobChangedError():
            return _CHANGED
        case PartsMissingError() | MultipartNotFoundError() | BlobNotFoundError():
            return _INCOMPLETE
        case StorageRefusedError() if job.status != ModelStatus.READY:  # of a ready one it is no evidence of damage
            return f"{error} {_THEN}"
    return None


async def _steps(platform: Platform, lease: Lease, job: ProcessingJob, *, fresh: bool) -> None:
    if job.staged is not None:
        await store_blobs(platform, lease, job, job.staged)
    await read_in_place(platform, lease, job)
    files = await stored_files(platform.database, job.version_id)
    verified = fresh and job.staged is None
    if verified:
        files = await as_they_are(platform, files)
        await verify_files(platform, job.project_id, files)
        await keep_pins(platform, lease, job, files)
    facts = await inspect_files(platform, files, job.file)
    signature = await read_signature(platform, files)
    await finish.ready(platform, lease, job, files, facts, signature, verified=verified)


async def _give_up(platform: Platform, lease: Lease, job: ProcessingJob) -> None:
    """Marks the version as failed unless it is ready: an error while reading is not evidence of damage."""
    if job.status == ModelStatus.PROCESSING:
        await finish.failed(platform, lease, job, f"{job.waits} {_THEN}" if job.waits else _GAVE_UP)
