"""The job that runs an import, completes its upload session, and cleans up after what failed.

It can be killed at any point: the commit is pinned when the files were first listed, and only the storage knows which
parts are there. Nothing is published before all files are stored.
"""

import asyncio
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Final

import structlog

from modelshare.server.audit.service import SYSTEM, project_changed
from modelshare.server.errors import ApiError
from modelshare.server.http import Platform
from modelshare.server.jobs import Handler, Lease, TryAgainError, lease_is_valid
from modelshare.server.outages import outage_of
from modelshare.server.registry.imports import queries, service
from modelshare.server.registry.imports.importer import CANCELLED, ImportEndedError, Importer, caller_of, upload_state
from modelshare.server.registry.imports.source_client import SourceAwayError, SourceError
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.uploads import completing, expiry
from modelshare.server.sealing import SealedError
from modelshare.server.storage_errors import OwnStorageError, StorageFullError
from modelshare.wire.importing import ImportState
from modelshare.wire.uploads import UploadState

log = structlog.get_logger()

_WAIT_SECONDS: Final = 5
"""Until a source that is away is asked again, unless it asks for more."""
_FIRST_PATIENCE_SECONDS: Final = 30
"""How long a source may be away before its files were listed: its address may be wrong."""
_PATIENCE_SECONDS: Final = 24 * 3600
"""How long an import may be without progress."""
_GAVE_UP: Final = "The server could not store these files. Contact the platform's operator, then import it again."


def handlers(platform: Platform) -> Mapping[str, Handler]:
    return {service.IMPORT: partial(run, platform)}


async def run(platform: Platform, lease: Lease) -> None:
    """Runs or resumes the import. Of one that has ended, deletes what has arrived."""
    async with platform.database.read() as session:
        row = await queries.any_import(session, uuid.UUID(lease.subject))
    if row is None:
        return
    try:
        if row.state == ImportState.IMPORTING:
            await _steps(platform, lease, row)
        await _settle(platform, lease, row)
    except ImportEndedError as ended:
        await _end(platform, lease, row, ended)
    except (OwnStorageError, StorageFullError) as error:
        await _note(platform, row, f"Waiting: {error}")
        raise
    except TryAgainError:
        raise
    except Exception as error:
        if lease.last and outage_of(error) is None:
            await _end(platform, lease, row, ImportEndedError(ImportState.FAILED, _GAVE_UP))
        raise


async def _steps(platform: Platform, lease: Lease, row: ImportRow) -> None:
    """Raises ImportEndedError, TryAgainError."""
    if lease.attempts_exhausted:
        raise ImportEndedError(ImportState.FAILED, row.reason or _GAVE_UP)
    try:
        service.require_enabled(platform)
        token = await asyncio.to_thread(service.token_of, platform, row)
        await Importer(platform, lease, row, token).run()
    except (SourceError, ModelRejectedError) as error:
        raise ImportEndedError(ImportState.FAILED, str(error)) from error
    except SealedError as error:
        log.error("cannot decrypt the token of an import", error=str(error))  # noqa: TRY400 - the sentence says it all
        said = "The platform cannot decrypt the token any more. Import again, and give the token again."
        raise ImportEndedError(ImportState.FAILED, said) from error
    except ApiError as error:
        if await upload_state(platform, row) == UploadState.CANCELLED:
            raise ImportEndedError(ImportState.CANCELLED, CANCELLED) from error
        raise ImportEndedError(ImportState.FAILED, error.message) from error
    except SourceAwayError as error:
        await _wait(platform, row, error)


async def _wait(platform: Platform, row: ImportRow, error: SourceAwayError) -> None:
    async with platform.database.read() as session:
        now = await queries.any_import(session, row.id)
    if now is None:
        return
    is_known = now.upload_id is not None or error.answered
    patience = _PATIENCE_SECONDS if is_known else _FIRST_PATIENCE_SECONDS
    if platform.now() > now.progressed_at + patience:
        raise ImportEndedError(ImportState.FAILED, f"{error}. Check the source, and import it again.") from error
    await _note(platform, row, f"Waiting: {error}.")
    raise TryAgainError(max(error.after, _WAIT_SECONDS)) from error


async def _settle(platform: Platform, lease: Lease, known: ImportRow) -> None:
    """Completes the upload of an import whose files are all stored, cancels the upload of one that has failed."""
    async with platform.database.read() as session:
        row = await queries.any_import(session, known.id)
    if row is None or row.upload_id is None:
        return
    caller = caller_of(row)
    if row.state != service.STORED:
        if await upload_state(platform, row) == UploadState.OPEN:
            await expiry.cancel(platform, caller, str(row.upload_id))
    elif row.ended_at is None:
        try:
            await completing.complete(platform, caller, str(row.upload_id), [])
        except ApiError as error:
            raise ImportEndedError(ImportState.FAILED, error.message) from error
        async with platform.database.write() as session:
            locked = await queries.any_import(session, row.id, lock=True)
            if locked is not None and await lease_is_valid(session, lease):
                locked.ended_at = platform.now()


async def _end(platform: Platform, lease: Lease, known: ImportRow, ended: ImportEndedError) -> None:
    async with platform.database.write() as session:
        row = await queries.any_import(session, known.id, lock=True)
        if row is None or not await lease_is_valid(session, lease):
            return
        if row.ended_at is None:
            service.end(session, row, ended.state, ended.reason, SYSTEM, now=platform.now())
    await _settle(platform, lease, known)


async def _note(platform: Platform, row: ImportRow, reason: str) -> None:
    async with platform.database.write() as session:
        await queries.note(session, row.id, reason)
        project_changed(session, row.project_id)
