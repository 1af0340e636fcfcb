"""The job that moves a version: copies its files, then points the version at the copies in one transaction.

Pulls continue meanwhile: the old bytes are deleted once every URL of them has expired.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.service import quota_of
from modelshare.server.audit.service import SYSTEM
from modelshare.server.http import Platform
from modelshare.server.jobs import Handler, Lease, lease_is_valid
from modelshare.server.outages import outage_of
from modelshare.server.registry import queries as models
from modelshare.server.registry import service as registry
from modelshare.server.registry.blobs import disposal
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.moves import queries
from modelshare.server.registry.moves.copying import MoveEndedError, Progress, copy_file, prefix
from modelshare.server.registry.moves.service import MOVE, target_of
from modelshare.server.registry.moves.tables import MoveFileRow, MoveRow
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.tables import BlobRow, FileRow, ModelRow
from modelshare.server.registry.uploads.rules import quota_refusal
from modelshare.server.storage.stores import PLATFORM
from modelshare.server.storage_errors import BlobNotFoundError, OwnStorageError, StorageFullError
from modelshare.wire.storage import MoveState

_FILES_AT_ONCE: Final = 2
_KEPT_SECONDS: Final = 15 * 60
"""How long old bytes are kept after the last URL of them has expired, for downloads in progress."""
_GAVE_UP: Final = "The server could not copy this version's files. Contact the platform's operator, then move it again."
_DELETED: Final = "The version was deleted."


@dataclass(frozen=True, slots=True)
class _Move:
    row: MoveRow
    files: Sequence[StoredFile]
    """Those that are elsewhere, each content once."""
    copies: Mapping[str, MoveFileRow]
    """By digest."""


def handlers(platform: Platform) -> Mapping[str, Handler]:
    return {MOVE: partial(move, platform)}


async def move(platform: Platform, lease: Lease) -> None:
    """Moves the version, or resumes that. Does nothing if the move has ended, except that it deletes what was copied
    by a cancelled one."""
    found = await _load(platform, uuid.UUID(lease.subject))
    if found is None or found.row.state in {MoveState.DONE, MoveState.FAILED}:
        return
    try:
        _require_open(found.row)
        _require_attempts(found.row, lease)
        await _copy(platform, found)
        await _switch(platform, lease, found.row)
    except MoveEndedError as ended:
        await _end(platform, lease, found.row, ended)
    except BlobNotFoundError:
        missing = "Some of this version's bytes are missing in storage, so nothing was moved. Push it again."
        await _end(platform, lease, found.row, MoveEndedError(MoveState.FAILED, missing))
    except (OwnStorageError, StorageFullError) as error:
        async with platform.database.write() as session:
            await queries.note(session, found.row.id, f"Waiting: {error}")
        raise
    except Exception as error:
        if lease.last and outage_of(error) is None:
            await _end(platform, lease, found.row, MoveEndedError(MoveState.FAILED, _GAVE_UP))
        raise


async def _load(platform: Platform, move_id: uuid.UUID) -> _Move | None:
    async with platform.database.read() as session:
        row = await queries.move(session, move_id)
        if row is None:
            return None
        files = await registry.stored_files(session, row.version_id) if row.version_id else []
        elsewhere = {file.sha256: file for file in files if file.storage != row.storage}
        known = await blobs.stored_blobs(session, row.project_id, row.storage, elsewhere)
        copies = await queries.copies(session, move_id)
    return _Move(row, [file for file in elsewhere.values() if file.sha256 not in known], copies)


def _require_open(row: MoveRow) -> None:
    if row.state != MoveState.MOVING:
        raise MoveEndedError(MoveState(row.state), None)
    if row.version_id is None:
        raise MoveEndedError(MoveState.CANCELLED, _DELETED)


def _require_attempts(row: MoveRow, lease: Lease) -> None:
    if lease.attempts_exhausted:
        raise MoveEndedError(MoveState.FAILED, row.reason or _GAVE_UP)


async def _copy(platform: Platform, found: _Move) -> None:
    row = found.row
    copied = {digest for digest, copy in found.copies.items() if copy.is_copied}
    missing = [file for file in found.files if file.sha256 not in copied]
    progress = Progress(platform, row.id, row.bytes_total - sum(file.size for file in missing), row.bytes_done)
    store = await platform.stores.get(row.storage)
    await store.require_space(sum(file.size for file in missing))
    async with platform.database.write() as session:
        await queries.note(session, row.id, None)

    async def work(file: StoredFile) -> None:
        await copy_file(platform, file, row.project_id, row.storage, found.copies.get(file.sha256), progress)

    await map_concurrently(work, missing, limit=_FILES_AT_ONCE)


async def _switch(platform: Platform, lease: Lease, move_row: MoveRow) -> None:
    now = platform.now()
    async with platform.database.write() as session:
        project = await blobs.lock_project(session, move_row.project_id)
        row = await queries.move(session, move_row.id, lock=True)
        if row is None or not await lease_is_valid(session, lease):
            return
        _require_open(row)
        model = await models.any_model(session, row.model_id, lock=True)
        if model is None or row.version_id is None:
            raise MoveEndedError(MoveState.CANCELLED, _DELETED)
        files = await models.files_with_blobs(session, row.version_id)
        elsewhere = [(file, blob) for file, blob in files if blob.storage != row.storage]
        added = await _add_blobs(session, row, elsewhere, now)
        if row.storage == PLATFORM:
            used = await blobs.stored_bytes(session, row.project_id)
            quota, what = quota_of(project, platform.settings), "Moving this to the platform"
            if refusal := quota_refusal(needed=0, stored=used, quota=quota, what=what):
                raise MoveEndedError(MoveState.FAILED, refusal)
        for file, _ in elsewhere:
            file.storage, file.pin = row.storage, None
        for version in model.versions:
            if version.id == row.version_id:
                version.digests = "platform"  # compared while copying
        await session.flush()
        await _dispose(session, row, added, {blob.storage for _, blob in elsewhere}, now=now, after=_until(platform))
        row.state, row.ended_at, row.bytes_done, row.reason = MoveState.DONE, now, row.bytes_total, None
        _record(session, "model.moved", model, row, now)


async def _add_blobs(
    session: AsyncSession, row: MoveRow, elsewhere: Sequence[tuple[FileRow, BlobRow]], now: int
) -> set[str]:
    """Makes the copies blobs of the project, unless it has stored the same there meanwhile; returns their keys."""
    digests = {blob.sha256: blob.size for _, blob in elsewhere}
    known = await blobs.stored_blobs(session, row.project_id, row.storage, digests)
    copies = await queries.copies(session, row.id)
    added = {digest: copies[digest] for digest in digests if digest not in known}
    session.add_all(
        BlobRow(
            project_id=row.project_id,
            storage=row.storage,
            sha256=digest,
            size=digests[digest],
            key=copy.key,
            created_at=now,
            proven_at=now,
        )
        for digest, copy in added.items()
    )
    await session.flush()
    return {copy.key for copy in added.values()}


async def _dispose(
    session: AsyncSession, row: MoveRow, added: set[str], left: set[str], *, now: int, after: int
) -> None:
    """Deletes copies that turned out to be unneeded, and the old bytes once nobody can be reading them."""
    unneeded = [copy.key for copy in (await queries.copies(session, row.id)).values() if copy.key not in added]
    await queries.delete_copies(session, row.id)
    await disposal.discard_keys(session, row.project_id, row.storage, unneeded, now=now)
    for storage in left:
        await disposal.discard_left(session, row.project_id, storage, after=after)


def _until(platform: Platform) -> int:
    return platform.now() + platform.settings.grants_seconds + _KEPT_SECONDS


async def _end(platform: Platform, lease: Lease, move_row: MoveRow, ended: MoveEndedError) -> None:
    """Ends the move without having moved anything, and deletes what was copied."""
    now = platform.now()
    async with platform.database.write() as session:
        await blobs.lock_project(session, move_row.project_id)
        row = await queries.move(session, move_row.id, lock=True)
        if row is None or not await lease_is_valid(session, lease):
            return
        if row.state == MoveState.MOVING:
            if row.version_id is None:
                ended = MoveEndedError(MoveState.CANCELLED, _DELETED)
            row.state, row.reason, row.ended_at = ended.state, ended.reason, now
            model = await models.any_model(session, row.model_id)
            if model is not None and ended.state == MoveState.FAILED:
                _record(session, "model.move_failed", model, row, now, ended.reason)
        await queries.delete_copies(session, row.id)
        await disposal.discard_keys(session, row.project_id, row.storage, [prefix(row.project_id, row.id)], now=now)


def _record(
    session: AsyncSession, action: str, model: ModelRow, row: MoveRow, now: int, reason: str | None = None
) -> None:
    registry.record(session, action, model, SYSTEM, now, reason, version=row.version_name, to=target_of(row))
