"""Versions of a model: processing, choosing the latest, notes, deletion."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM
from modelshare.server.db import Database, is_unique_violation
from modelshare.server.errors import ConflictError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.jobs import enqueue
from modelshare.server.registry import queries
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.blobs.disposal import discard_unused, release
from modelshare.server.registry.latest import next_latest
from modelshare.server.registry.refused import printable
from modelshare.server.registry.service import current, delete, get_locked, ready, record, resolve, version_of
from modelshare.server.registry.storages.keeping import files_to_keep, keep
from modelshare.server.registry.tables import DeletedVersionRow, ModelRow, VersionRow
from modelshare.wire.models import KeptFile, ModelStatus, StoredBytes, VersionPatch
from modelshare.wire.uploads import UploadState

PROCESS = "registry.process"
"""The job that processes an uploaded version; its subject is the version's ID."""
REVALIDATE = "registry.revalidate"
"""The same for a version whose bytes must be read again."""
_CARD_FIELDS: Final[Mapping[str, Any]] = {"description": None, "tags": [], "license": None, "card": None}
"""Fields and their empty values."""


async def lock_stored(session: AsyncSession, caller: Caller) -> None:
    """Locks the blobs of the caller's project. To free some of them, take this lock before the model's."""
    await blobs.lock_project(session, caller.project)


async def delete_version(
    session: AsyncSession,
    caller: Caller,
    model: ModelRow,
    version: VersionRow,
    *,
    now: int,
    stored: StoredBytes | None = None,
) -> list[KeptFile]:
    """Deletes a version that is not in use, and its model if that has no other. Call with project and model locked.

    `stored` and the result are as of `service.delete`.
    """
    details = {"version": version.version, "status": version.status, "digest": version.manifest_digest}
    if len(model.versions) == 1:
        kept = await delete(session, caller, model.id, now=now, stored=stored)
    else:
        files = await files_to_keep(session, caller.project, [version.id], stored)
        await release(session, model.project_id, [version.id], now=now)
        if version.manifest is not None:
            deleted = DeletedVersionRow(model_id=model.id, version=version.version, deleted_at=now)
            deleted.manifest_digest = version.manifest_digest
            session.add(deleted)
        await queries.delete_version(session, version.id)
        kept = await keep(session, files)
    record(session, "model.delete_version", model, caller.actor, now, **details)
    await session.flush()
    while await discard_unused(session, caller.project):
        continue
    return kept


async def bytes_only_of(session: AsyncSession, model: ModelRow, version: VersionRow) -> int:
    """Bytes that deleting this version would free in the quota."""
    staged = await blobs.staged_bytes_of(session, version.id)
    return staged + await blobs.bytes_only_of(session, model.project_id, version.id)


async def open_upload_of(session: AsyncSession, version: VersionRow) -> uuid.UUID | None:
    """The ID of the version's open upload, if there is one."""
    sessions = await blobs.sessions_of(session, [version.id])
    return next((each.id for each in sessions if each.state == UploadState.OPEN), None)


async def promote(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, *, now: int) -> ModelRow:
    """Makes a ready version the latest; endpoints that follow `latest` switch to it."""
    row = await get_locked(session, caller, model_id)
    wanted = _ready(row, version)
    wanted.make_latest = True
    await move_latest(session, row, wanted, "model.promote", caller.actor, now)
    return row


async def roll_back(session: AsyncSession, caller: Caller, model_id: uuid.UUID, version: str, *, now: int) -> ModelRow:
    """Makes a ready version the latest again. 409 if it already is the latest."""
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
    """Changes a version's notes."""
    row = await get_locked(session, caller, model_id)
    found = version_of(row, version)
    found.notes = patch.version_notes or None
    record(session, "model.edit_version", row, caller.actor, now, version=found.version, version_notes=found.notes)
    return found


async def request_processing(session: AsyncSession, version_id: uuid.UUID, *, now: int) -> None:
    """Enqueues processing of the version, once this transaction is committed."""
    await enqueue(session, PROCESS, str(version_id), now=now)


async def revalidate(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int) -> ModelRow:
    """Reads all bytes of the model and inspects it again: its newest version if that failed, else its latest.

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


async def add(
    session: AsyncSession, model: ModelRow, version: VersionRow, replaces: VersionRow | None, *, now: int
) -> None:
    """Adds a version to a model, which is locked or new. `replaces`: a failed one, which is deleted."""
    session.add(model)
    if replaces is not None:
        await release(session, model.project_id, [replaces.id], now=now)
        await queries.delete_version(session, replaces.id)
    try:
        await session.flush()
    except IntegrityError as error:  # a concurrent request took the name
        if not is_unique_violation(error):
            raise
        raise ConflictError("Another model was given this name by another request. Try again.", param="name") from error
    version.model_id = model.id
    session.add(version)
    await session.flush()


async def fail(session: AsyncSession, row: ModelRow, version: VersionRow, reason: str, *, now: int) -> None:
    """Marks a version as failed and tells its owner why. `row` must be locked.

    Its bytes are kept until it is deleted or replaced, so that it can be revalidated. If it was the latest, another
    ready version takes its place. Endpoints that already run it go on.
    """
    record(session, "model.failed", row, SYSTEM, now, reason, version=version.version)
    if version.is_latest:
        await fall_back(session, row, version, reason=reason, now=now)
    version.is_latest = False
    version.status, version.status_reason = ModelStatus.FAILED, reason


async def fail_changed(database: Database, version_id: uuid.UUID, path: str, what: str, *, now: int) -> None:
    """The file at `path` of a ready version is no longer what was published, as its owner is told. Safe to repeat.

    `what` completes the sentence: "was replaced". Call it outside of transactions.
    """
    reason = (
        f"{printable(path)} {what} after this version was published. Restore it and run `modelshare models "
        "revalidate`, or publish the files as a new version."
    )
    async with database.write() as session:
        found = await queries.version(session, version_id)
        model = await queries.any_model(session, found.model_id, lock=True) if found is not None else None
        for version in ready(model) if model is not None else ():
            if model is not None and version.id == version_id:
                await fail(session, model, version, reason, now=now)


async def fall_back(session: AsyncSession, row: ModelRow, failed: VersionRow, *, reason: str, now: int) -> None:
    """Makes another ready version, if there is any, the latest when this one fails. `row` must be locked."""
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
    """Makes another version the latest, and records it in the audit log. `row` must be locked."""
    previous = resolve(row, None)
    if previous is wanted:
        return
    await set_latest(session, row, wanted)
    before = previous.version if previous else None
    record(session, action, row, actor, now, reason, version=wanted.version, before=before)


async def set_latest(session: AsyncSession, row: ModelRow, wanted: VersionRow) -> None:
    """Makes a version the latest, and updates the model's card from its files, except fields that the owner has edited:
    those that differ from the previous latest version's.
    """
    previous = resolve(row, None)
    for each in row.versions:
        each.latest_note = None  # it refers to the previous latest version
    if previous is not None:
        previous.is_latest = False
        await session.flush()  # the database allows only one latest version at any time
    wanted.is_latest = True
    old_facts = previous.facts if previous else {}
    for field, empty in _CARD_FIELDS.items():
        if (getattr(row, field) or empty) == (old_facts.get(field) or empty):
            setattr(row, field, wanted.facts.get(field) or empty)
