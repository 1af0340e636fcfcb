"""Models: read, edit, delete; the interface for other domains.

Lists show a model's latest version, or its newest one while none is ready yet.
"""

import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit, project_changed
from modelshare.server.db import is_unique_violation, notify
from modelshare.server.errors import AuditedRefusal, ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.server.registry import file_selection, queries
from modelshare.server.registry.blobs.disposal import release
from modelshare.server.registry.blobs.queries import lock_project
from modelshare.server.registry.manifest import ManifestFile
from modelshare.server.registry.storages.keeping import files_to_keep, keep
from modelshare.server.registry.tables import SOURCE, BlobRow, FileRow, ModelRow, VersionRow, key_of
from modelshare.server.storage.pins import pinned_key
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import KeptFile, ModelPatch, ModelSource, ModelStatus, StoredBytes, Version
from modelshare.wire.signers import Signature, SignatureState

MODELS_TOPIC = "models"
"""Notification that a model or its versions changed; the subject is the model's ID."""
USAGE_TOPIC = "usage"
"""Notification that the number of a model's active endpoints changed; the subject is the model's ID."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a version and where its bytes are stored."""

    version_id: uuid.UUID
    path: str
    size: int
    sha256: str
    storage: str
    """PLATFORM or the id of a project's storage."""
    key: str
    """Where in that storage."""
    pin: str | None = None
    """Version id or ETag that the object must still have; None: only the platform writes it."""


@dataclass(frozen=True, slots=True)
class EndpointCounts:
    """Numbers of active endpoints of a model."""

    total: int
    foreign: int
    """Of projects other than the owner's."""
    on_shared_tiers: int


async def find(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, lock: bool = False) -> ModelRow | None:
    """The caller's own model, or None."""
    return await queries.model(session, caller.project, model_id, lock=lock)


async def get(session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, lock: bool = False) -> ModelRow:
    """The caller's own model; 404 otherwise."""
    row = await find(session, caller, model_id, lock=lock)
    if row is None:
        raise NotFoundError(
            "There is no such model in your project. GET /v1/models lists yours.", code=ErrorCode.MODEL_NOT_FOUND
        )
    return row


async def get_locked(session: AsyncSession, caller: Caller, model_id: uuid.UUID) -> ModelRow:
    """Like `get`, locked for a change."""
    return await get(session, caller, model_id, lock=True)


async def find_any(session: AsyncSession, model_id: uuid.UUID, *, lock: bool = False) -> ModelRow | None:
    """A model of any project. `sharing.rules` decide whether the caller may see it."""
    return await queries.any_model(session, model_id, lock=lock)


def name_key(name: str) -> str:
    """Returns the same for names of models that differ in case only."""
    return key_of(name)


async def find_version(session: AsyncSession, version_id: uuid.UUID) -> VersionRow | None:
    """Returns a version of any project, as the database has it now."""
    return await queries.version(session, version_id)


async def find_named(session: AsyncSession, project_id: str, name: str) -> uuid.UUID | None:
    """The ID of a model of any project by its name there, ignoring case."""
    return await queries.id_named(session, project_id, name)


async def name_conflict(
    session: AsyncSession, project_id: str, name: str, *, but: uuid.UUID | None = None
) -> ConflictError | None:
    """The error if another model of the project (not `but`) has this name, ignoring case."""
    other = await queries.other_named(session, project_id, name, but)
    return _name_taken(other, name) if other is not None else None


async def served_names(session: AsyncSession, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """`owner/name` of models of any project, for projects that have used them. Deleted models are missing."""
    return await queries.served_names(session, model_ids) if model_ids else {}


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> tuple[list[ModelRow], str | None]:
    """The caller's models, newest first, and the cursor of the next page."""
    rows = await queries.models(session, caller.project, paging.fetch_limit, paging.after_id)
    return paging.cut(rows)


async def names(session: AsyncSession, caller: Caller, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Names of those of the models that are the caller's."""
    return await queries.names(session, caller.project, model_ids) if model_ids else {}


async def count(session: AsyncSession, limit: int) -> int:
    """The number of models of all projects, counted up to `limit`."""
    return await queries.count(session, limit)


async def edit(session: AsyncSession, caller: Caller, model_id: uuid.UUID, patch: ModelPatch, *, now: int) -> ModelRow:
    """Renames a model, or edits its description. 409 if the project already has a model of that name."""
    row = await get_locked(session, caller, model_id)
    given_up = row.name_key
    changes = patch.model_dump(exclude_unset=True)
    if "name" in changes and changes["name"] is None:
        raise InvalidRequestError("`name`: A model needs a name; leave the field out to keep it.", param="name")
    if patch.name is not None and patch.name != row.name:
        if (taken := await name_conflict(session, row.project_id, patch.name, but=row.id)) is not None:
            raise taken
        row.name_key = key_of(patch.name)
    for field, value in changes.items():
        setattr(row, field, value if value is not None or field != "tags" else [])
    try:
        await session.flush()
    except IntegrityError as error:  # a concurrent request took the name
        if not is_unique_violation(error):
            raise
        raise _name_taken(patch.name or "", patch.name or "") from error
    if given_up is not None and given_up != row.name_key:
        await queries.hand_on_name(session, row.project_id, given_up)
    record(session, "model.edit", row, caller.actor, now, fields=sorted(changes))
    return row


async def delete(
    session: AsyncSession, caller: Caller, model_id: uuid.UUID, *, now: int, stored: StoredBytes | None = None
) -> list[KeptFile]:
    """Deletes the model with all versions. 409 while active endpoints of other projects use it.

    `stored`: what happens to files in the project's own storage; 400 if there are any and it is None. Returns those
    that were kept.
    """
    await lock_project(session, caller.project)
    row = await get_locked(session, caller, model_id)
    if row.foreign_endpoints:
        many = "1 active endpoint" if row.foreign_endpoints == 1 else f"{row.foreign_endpoints} active endpoints"
        raise ConflictError(
            f"{many} of other projects still use this model, so it cannot be deleted. Unshare it to prevent new "
            "ones, and wait until their owners delete these.",
            code=ErrorCode.MODEL_IN_USE,
            refusal=AuditedRefusal("model.delete", f"model:{row.id}"),
        )
    versions = [version.id for version in row.versions]
    files = await files_to_keep(session, caller.project, versions, stored)
    record(session, "model.delete", row, caller.actor, now, **({"bytes": stored} if stored else {}))
    await release(session, caller.project, versions, now=now)
    await session.delete(row)
    await session.flush()
    if row.name_key is not None:
        await queries.hand_on_name(session, row.project_id, row.name_key)
    return await keep(session, files)


async def stored_files(session: AsyncSession, version_id: uuid.UUID) -> list[StoredFile]:
    """The version's files, ordered by path."""

    def stored(row: FileRow, blob: BlobRow) -> StoredFile:
        key, pin = blob.key, blob.pin
        if pin is not None and row.pin is not None:
            key, pin = pinned_key(row.pin, row.path), row.pin
        return StoredFile(version_id, row.path, row.size, row.sha256, blob.storage, key, pin)

    return [stored(row, blob) for row, blob in await queries.files_with_blobs(session, version_id)]


def set_usage(session: AsyncSession, row: ModelRow, counts: EndpointCounts) -> None:
    """Stores the numbers of the model's active endpoints. `row` must be locked, and counted under that lock."""
    row.active_endpoints = counts.total
    row.foreign_endpoints = counts.foreign
    row.shared_tier_endpoints = counts.on_shared_tiers
    notify(session, USAGE_TOPIC, str(row.id))
    project_changed(session, row.project_id)


def current(row: ModelRow) -> VersionRow | None:
    """The version that represents the model: the latest, or the newest one while none is ready."""
    latest = next((version for version in row.versions if version.is_latest), None)
    return latest or (row.versions[-1] if row.versions else None)


def ready(row: ModelRow) -> list[VersionRow]:
    """The ready versions, oldest first."""
    return [version for version in row.versions if version.status == ModelStatus.READY]


def resolve(row: ModelRow, wanted: str | None) -> VersionRow | None:
    """The ready version with the number `wanted` (None: the latest)."""
    for version in ready(row):
        if version.is_latest if wanted is None else version.version == wanted:
            return version
    return None


def version_of(row: ModelRow, version: str) -> VersionRow:
    """The version with this number, ready or not; 404 if there is none."""
    found = next((each for each in row.versions if each.version == version), None)
    if found is None:
        names = ", ".join(each.version for each in row.versions)
        raise NotFoundError(f"There is no version `{version}` of this model. Versions: {names or 'none'}.")
    return found


def size_of(row: VersionRow, file: str | None) -> int:
    """Bytes that an agent downloads to serve the version's own model (`file` None), or another of its choices."""
    model = file_selection.find(row, file)
    if model is None or not file_selection.choices(row):
        return row.size_bytes or 0
    return sum(each.size for each in model.needed(msgspec.convert(manifest_of(row)["files"], list[ManifestFile])))


def version_view(row: VersionRow) -> Version:
    return Version(
        version=row.version,
        status=ModelStatus(row.status),
        status_reason=row.status_reason,
        is_latest=row.is_latest,
        latest_note=row.latest_note,
        version_notes=row.notes,
        size_bytes=row.size_bytes,
        manifest_digest=row.manifest_digest,
        signature=signature_view(row),
        signature_problem=row.signature_problem,
        digests=cast("Literal['platform', 'holder', 'owner']", row.digests),
        source=ModelSource(**source) if (source := row.facts.get(SOURCE)) else None,
        created_at=row.created_at,
    )


def signature_view(row: VersionRow) -> Signature:
    return Signature(state=SignatureState(row.signature_state), signer=row.signer)


def manifest_of(row: VersionRow) -> dict[str, Any]:
    """The manifest of a ready version, as JSON."""
    return dict(json.loads(row.manifest or b"{}"))


def _name_taken(existing: str, name: str) -> ConflictError:
    if existing == name:
        message = f"Your project already has a model `{existing}`. Choose another name."
    else:
        message = (
            f"Your project already has a model `{existing}`, and names are not case-sensitive. Use `{existing}`, or "
            "choose another name."
        )
    return ConflictError(message, param="name")


def model_changed(session: AsyncSession, model_id: uuid.UUID) -> None:
    """Notifies of a change, which updates whatever is derived from models: see `Database.before_commit`,
    `subscribe`."""
    notify(session, MODELS_TOPIC, str(model_id))


def record(
    session: AsyncSession,
    action: str,
    row: ModelRow,
    actor: str,
    now: int,
    reason: str | None = None,
    **details: Any,
) -> None:
    """Call after every change of a model: records it in the audit log of the model's project and notifies of it."""
    model_changed(session, row.id)
    Audit(session, row.project_id, actor, now).done(action, f"model:{row.id}", reason, name=row.name, **details)
