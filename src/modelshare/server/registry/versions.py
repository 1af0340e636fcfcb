"""What is done to versions of a model: processing, which is the latest, their notes, their deletion."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM
from modelshare.server.errors import ConflictError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.jobs import enqueue
from modelshare.server.registry import queries
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.blobs.disposal import let_go_of_unused, release
from modelshare.server.registry.latest import next_latest
from modelshare.server.registry.service import current, delete, get_locked, ready, record, resolve, version_of
from modelshare.server.registry.tables import DeletedVersionRow, ModelRow, VersionRow
from modelshare.wire.models import ModelStatus, VersionPatch
from modelshare.wire.uploads import UploadState

PROCESS = "registry.process"
"""The job that makes an uploaded version ready; its subject is the version's id."""
REVALIDATE = "registry.revalidate"
"""The same for a version whose bytes are to be read anew."""
_CARD_FIELDS: Final[Mapping[str, Any]] = {"description": None, "tags": [], "license": None, "card": None}
"""Each with what stands for nothing."""


async def lock_stored(session: AsyncSession, caller: Caller) -> None:
    """Locks what the caller's project stores: before the model, by whoever frees some of it."""
    await blobs.lock_project(session, caller.project)


async def delete_version(
    session: AsyncSession, caller: Caller, model: ModelRow, version: VersionRow, *, now: int
) -> None:
    """Deletes a version that nobody has; its model too, where that has no other. Stored bytes and model are locked."""
    details = {"version": version.version, "status": version.status, "digest": version.manifest_digest}
    if len(model.versions) == 1:
        await delete(session, caller, model.id, now=now)
    else:
        await release(session, model.project_id, [version.id], now=now)
        if version.manifest is not None:
            deleted = DeletedVersionRow(model_id=model.id, version=version.version, deleted_at=now)
            deleted.manifest_digest = version.manifest_digest
            session.add(deleted)
        await queries.delete_version(session, version.id)
    record(session, "model.delete_version", model, caller.actor, now, **details)
    await session.flush()
    while await let_go_of_unused(session, caller.project):
        continue


async def bytes_only_of(session: AsyncSession, model: ModelRow, version: VersionRow) -> int:
    """Bytes that count against the quota for this version alone."""
    staged = await blobs.staged_bytes_of(session, version.id)
    return staged + await blobs.bytes_only_of(session, model.project_id, version.id)


async def open_upload_of(session: AsyncSession, version: VersionRow) -> uuid.UUID | None:
    """The upload that a version waits for."""
    sessions = await blobs.sessions_of(session, [version.id])
    return next((each.id for each in sessions if each.state == UploadState.OPEN), None)


async def promote(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, *, now: int) -> ModelRow:
    """Makes a ready version the latest; endpoints on `latest` follow."""
    row = await get_locked(session, caller, model_id)
    wanted = _ready(row, version)
    wanted.make_latest = True
    await move_latest(session, row, wanted, "model.promote", caller.actor, now)
    return row


async def roll_back(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, *, now: int) -> ModelRow:
    """Goes back to this ready version: it becomes the latest. 409 where it is that already."""
    row = await get_locked(session, caller, model_id)
    wanted = _ready(row, version)
    if wanted.is_latest:
        others = ", ".join(each.version for each in ready(row) if each is not wanted)
        remedy = (
            f"Choose the version to go back to: {others}" if others else "There is no other ready version to go back to"
        )
        raise ConflictError(f"{version} is already the latest version. {remedy}.")
    wanted.make_latest = True
    await move_latest(session, row, wanted, "model.rollback", caller.actor, now)
    return row


async def edit_version(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, patch: VersionPatch, *, now: int
) -> VersionRow:
    """Edits what people read of a version."""
    row = await get_locked(session, caller, model_id)
    found = version_of(row, version)
    found.notes = patch.version_notes or None
    record(session, "model.edit_version", row, caller.actor, now, version=found.version, version_notes=found.notes)
    return found


async def request_processing(session: AsyncSession, version_id: uuid.UUID, *, now: int) -> None:
    """Has the version processed once this transaction is committed."""
    await enqueue(session, PROCESS, str(version_id), now=now)


async def revalidate(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> ModelRow:
    """Reads every byte of the model anew and judges it again: its newest version where that failed, else its latest.

    A failed version is `processing` meanwhile; a ready one stays ready, and fails only if its bytes have changed.
    """
    model = await get_locked(session, caller, model_id)
    version = _to_revalidate(model)
    if version is None or version.status == ModelStatus.UPLOADING:
        raise ConflictError(
            "This model is still being uploaded. Complete or cancel the upload first (`modelshare uploads list`)."
        )
    if version.status != ModelStatus.PROCESSING:
        if version.status == ModelStatus.FAILED:
            version.status, version.status_reason = ModelStatus.PROCESSING, None
        await enqueue(session, REVALIDATE, str(version.id), now=now)
        record(session, "model.revalidate", model, caller.actor, now, version=version.version)
    return model


async def fall_back(session: AsyncSession, row: ModelRow, failed: VersionRow, *, reason: str, now: int) -> None:
    """Another ready version, if there is any, becomes the latest as this one fails. `row` is locked."""
    wanted = next_latest(failed.version, [each for each in ready(row) if each is not failed])
    if wanted is not None:
        await move_latest(session, row, wanted, "model.rollback", SYSTEM, now, reason)


def _to_revalidate(model: ModelRow) -> VersionRow | None:
    newest = model.versions[-1] if model.versions else None
    return newest if newest is not None and newest.status == ModelStatus.FAILED else current(model)


def _ready(row: ModelRow, version: str) -> VersionRow:
    wanted = resolve(row, version)
    if wanted is None:
        names = ", ".join(each.version for each in ready(row))
        raise NotFoundError(f"There is no ready version `{version}` of this model. Ready: {names or 'none'}.")
    return wanted


async def move_latest(
    session: AsyncSession,
    row: ModelRow,
    wanted: VersionRow,
    action: str,
    actor: str,
    now: int,
    reason: str | None = None,
) -> None:
    """Makes another version the latest, and says so in the audit log. `row` is locked."""
    before = resolve(row, None)
    if before is wanted:
        return
    await set_latest(session, row, wanted)
    was = before.version if before else None
    record(session, action, row, actor, now, reason, version=wanted.version, before=was)


async def set_latest(session: AsyncSession, row: ModelRow, wanted: VersionRow) -> None:
    """Makes a version the latest, and the model's card say what that version's files say: but for what its owner has
    edited, which no longer says what the version before said."""
    before = resolve(row, None)
    for each in row.versions:
        each.latest_note = None  # it was said of another latest version
    if before is not None:
        before.is_latest = False
        await session.flush()  # there is at most one at any instant, the database sees to that
    wanted.is_latest = True
    said = before.facts if before else {}
    for field, nothing in _CARD_FIELDS.items():
        if (getattr(row, field) or nothing) == (said.get(field) or nothing):
            setattr(row, field, wanted.facts.get(field) or nothing)
