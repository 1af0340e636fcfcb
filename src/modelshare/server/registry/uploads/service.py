"""Upload sessions: open, read, list. `parts` receives the bytes; `completing` and `expiry` end a session."""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.service import quota_of
from modelshare.server.audit.service import Audit
from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import new_id, parse_uuid
from modelshare.server.paging import Paging
from modelshare.server.registry import service as registry
from modelshare.server.registry import versions
from modelshare.server.registry.archive import kind_of
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.blobs import staging
from modelshare.server.registry.blobs.disposal import discard_sent_ahead
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.latest import why_not_latest
from modelshare.server.registry.paths import check_paths
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.tables import SELECTION, ModelRow, StagedFileRow, UploadFileRow, UploadRow, VersionRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.plan import UploadPlan, plan_opening
from modelshare.server.registry.uploads.progress import view
from modelshare.server.registry.uploads.rules import (
    WantedFile,
    check_named_model,
    check_names,
    selection_of,
    wanted_files,
)
from modelshare.server.storage.base import fit_part_size
from modelshare.server.storage_errors import StorageError
from modelshare.wire.base import Page
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import ModelStatus
from modelshare.wire.uploads import Upload, UploadOpen, UploadState, VersionOpen

_MAX_SESSIONS = 4
"""Sessions whose parts are listed in the storage concurrently."""


async def open_upload(platform: Platform, caller: Caller, request: UploadOpen) -> tuple[Upload, bool]:
    """Opens a session, or finds the open one of the same push. Also returns whether it is new.

    Checks the paths, the version, the quota and the free space before the first byte is sent.
    """

    def lock(session: AsyncSession) -> Awaitable[ModelRow | None]:
        return lock_model_named(session, caller, request.name)

    files = await asyncio.to_thread(_checked_files, platform, request)
    return await _open(_Opening(platform, caller, request, files, lock, request.name))


async def open_version(
    platform: Platform, caller: Caller, model_id: uuid.UUID, request: VersionOpen
) -> tuple[Upload, bool]:
    """Like `open_upload`, for an existing model; 404 if it is not the caller's."""

    def lock(session: AsyncSession) -> Awaitable[ModelRow]:
        return registry.get_locked(session, caller, model_id)

    files = await asyncio.to_thread(_checked_files, platform, request)
    return await _open(_Opening(platform, caller, request, files, lock))


async def get(platform: Platform, caller: Caller, upload_id: str) -> Upload:
    """A session of the caller's project; 404 otherwise."""
    async with platform.database.read() as session:
        row = await find(session, caller, upload_id)
    return await view(platform, row)


async def page(
    platform: Platform, caller: Caller, paging: Paging, *, state: UploadState | None, name: str | None
) -> Page[Upload]:
    """Lists the project's uploads, newest first."""
    async with platform.database.read() as session:
        rows = await queries.uploads(session, caller.project, paging.fetch_limit, paging.after_id, state, name)
    rows, cursor = paging.cut(rows)
    data = await map_concurrently(lambda row: view(platform, row), rows, limit=_MAX_SESSIONS)
    return Page.of(data, cursor)


async def origins(platform: Platform, caller: Caller) -> list[str]:
    """Where a browser has to send parts of the project's uploads, besides this server."""
    async with platform.database.read() as session:
        used = await queries.open_storages(session, caller.project)
        used.add(await storages.current_id(session, caller.project))
    found = set()
    for storage in used:
        with contextlib.suppress(StorageError):  # the upload itself tells what is wrong with its storage
            store = await platform.stores.get(storage)
            if store.direct:
                found.add(store.origin)
    return sorted(found)


async def lock_model_named(session: AsyncSession, caller: Caller, name: str) -> ModelRow | None:
    """The caller's model of this name, locked; None if it is free. 409 if it differs from another's in case only."""
    found = await queries.lock_model_named(session, caller.project, name)
    taken = None if found else await registry.name_conflict(session, caller.project, name)
    if taken is not None:
        raise taken
    return found


async def find(session: AsyncSession, caller: Caller, upload_id: str) -> UploadRow:
    """A session of the caller's project with its files; 404 otherwise."""
    uid = parse_uuid(upload_id)
    row = await queries.upload(session, caller.project, uid) if uid else None
    if row is None:
        raise no_such_upload()
    return row


async def latest_note(session: AsyncSession, model_id: uuid.UUID, version_id: uuid.UUID | None) -> str | None:
    """Why the version is not the latest, or would not become the latest now; None if it is or would."""
    model = await registry.find_any(session, model_id)
    version = next((each for each in model.versions if each.id == version_id), None) if model else None
    if model is None or version is None:
        return None
    if version.status == ModelStatus.READY:
        return version.latest_note
    return why_not_latest(version, registry.resolve(model, None), registry.ready(model))


def no_such_upload() -> NotFoundError:
    return NotFoundError("There is no such upload in your project. GET /v1/uploads lists them.")


def require_open(row: UploadRow) -> None:
    """409 unless the session still accepts parts."""
    if row.state != UploadState.OPEN:
        raise ConflictError(
            f"This upload is {row.state}. Push again to open a new one.", code=ErrorCode.UPLOAD_NOT_OPEN
        )


@dataclass(frozen=True, slots=True)
class _Opening:
    """A request to open a session, and its caller."""

    platform: Platform
    caller: Caller
    request: VersionOpen
    files: Sequence[WantedFile]
    lock_model: Callable[[AsyncSession], Awaitable[ModelRow | None]]
    """Finds the model and locks it; returns None for a new model."""
    name: str = ""
    """The name of a new model."""


async def _open(opening: _Opening) -> tuple[Upload, bool]:
    platform = opening.platform
    async with platform.database.write() as session:  # read only, but under the locks needed below
        plan = await _plan(session, opening)
    store = await platform.stores.get(plan.storage)
    await store.require_space(plan.bytes_to_send)
    async with platform.database.write() as session:
        plan = await _plan(session, opening)
        if plan.resumes is not None:
            row = await _resume(session, plan.resumes, plan, opening)
        else:
            await _check_room(session, opening)
            row = await _create(session, opening, plan)
        note = await latest_note(session, row.model_id, row.version_id)
    opened = await view(platform, row, plan.candidates)
    return opened.model_copy(update={"latest_note": note}), plan.resumes is None


def _checked_files(platform: Platform, request: VersionOpen) -> list[WantedFile]:
    files = wanted_files(request)
    try:
        check_paths(file.path for file in files)
        if request.archive is not None:
            _check_archive_name(request.archive.filename)
        check_names(request, allow_pickle=platform.settings.models_allow_pickle)
    except ModelRejectedError as refused:
        raise InvalidRequestError(refused.reason, param="archive" if request.archive else "files") from refused
    if request.file is not None and request.archive is None:
        try:
            check_named_model(request.file, [file.path for file in files])
        except ModelRejectedError as refused:
            raise InvalidRequestError(refused.reason, param="file") from refused
    return files


def _check_archive_name(name: str) -> None:
    kind_of(name)
    if "/" in name:
        raise ModelRejectedError("The archive's file name contains a /. Send the name without its folder.")


async def _plan(session: AsyncSession, opening: _Opening) -> UploadPlan:
    project = await blobs.lock_project(session, opening.caller.project)
    quota = quota_of(project, opening.platform.settings)
    model = await opening.lock_model(session)
    name = model.name if model else opening.name
    return await plan_opening(session, project.id, model, name, quota, opening.request, opening.files)


async def _check_room(session: AsyncSession, opening: _Opening) -> None:
    """409 if the project has the maximum number of open uploads. Its lock prevents opening another meanwhile."""
    limit = opening.platform.settings.uploads_open_per_project
    if await queries.count_open(session, opening.caller.project, limit) >= limit:
        raise ConflictError(
            f"Your project has {limit} uploads open, the maximum. Finish one, or cancel one: `modelshare uploads "
            "list` shows them, `modelshare uploads cancel ID` cancels."
        )


async def _resume(session: AsyncSession, row: UploadRow, plan: UploadPlan, opening: _Opening) -> UploadRow:
    """Reopens the session, updated with the digests and options of this request."""
    platform, spec = opening.platform, opening.request
    version = await session.get_one(VersionRow, row.version_id)
    version.file = spec.file
    if spec.make_latest is not None:
        version.make_latest = spec.make_latest
    if spec.version_notes is not None:
        version.notes = spec.version_notes or None
    claims = {file.path: file.sha256 for file in opening.files}
    for file in row.files:
        file.sha256 = file.sha256 or claims[file.path]
        if file.multipart_id:
            continue
        if file.sha256 in plan.reused:
            file.reused = True
        elif file.sha256 is not None:
            _take_over(file, row, plan.ahead.get(file.sha256))
    await _forget_ahead(session, row, plan, now=platform.now())
    row.expires_at = platform.now() + platform.settings.uploads_expire_seconds
    return row


async def _create(session: AsyncSession, opening: _Opening, plan: UploadPlan) -> UploadRow:
    caller, files, now = opening.caller, opening.files, opening.platform.now()
    model = plan.model or ModelRow(project_id=caller.project, name=opening.name, tags=[], created_at=now)
    version = VersionRow(
        version=plan.version,
        status=ModelStatus.UPLOADING,
        make_latest=opening.request.make_latest,
        facts={SELECTION: chosen} if (chosen := selection_of(opening.request)) else {},
        notes=opening.request.version_notes or None,
        file=opening.request.file,
        created_at=now,
    )
    await versions.add(session, model, version, plan.replaces, now=now)
    row = _session_row(opening, plan, model, version)
    row.files = [_file_row(row, n, file, plan) for n, file in enumerate(files)]
    session.add(row)
    await _forget_ahead(session, row, plan, now=now)
    record(session, "upload.open", row, caller.actor, now, bytes=row.bytes_total, files=len(files))
    return row


def _session_row(opening: _Opening, plan: UploadPlan, model: ModelRow, version: VersionRow) -> UploadRow:
    settings, now, archive = opening.platform.settings, opening.platform.now(), opening.request.archive
    wanted_part_size = min(opening.request.part_size or settings.uploads_part_size, settings.uploads_part_size)
    sizes_to_send = [file.size for file in opening.files if file.sha256 not in plan.reused]
    return UploadRow(
        id=new_id(),
        project_id=model.project_id,
        version_id=version.id,
        model_id=model.id,
        model_name=model.name,
        version_name=version.version,
        archive=archive.filename if archive else None,
        state=UploadState.OPEN,
        storage=plan.storage,
        part_size=fit_part_size(max(sizes_to_send, default=0), wanted_part_size),
        bytes_total=sum(file.size for file in opening.files),
        created_at=now,
        expires_at=now + settings.uploads_expire_seconds,
    )


def _file_row(row: UploadRow, n: int, file: WantedFile, plan: UploadPlan) -> UploadFileRow:
    reused = file.sha256 in plan.reused
    made = UploadFileRow(
        n=n,
        path=file.path,
        size=file.size,
        sha256=file.sha256,
        key=staging.file_key(row.project_id, row.id, n),
        multipart_id="",
        reused=reused,
    )
    if not reused and file.sha256 is not None:
        _take_over(made, row, plan.ahead.get(file.sha256))
    return made


def _take_over(file: UploadFileRow, upload: UploadRow, ahead: StagedFileRow | None) -> None:
    """The bytes of this file that were sent before the session was opened, if they were."""
    if ahead is not None and (ahead.size, ahead.part_size) == (file.size, upload.part_size):
        file.key, file.multipart_id = ahead.key, ahead.multipart_id


async def _forget_ahead(session: AsyncSession, row: UploadRow, plan: UploadPlan, *, now: int) -> None:
    """Removes files that were sent ahead and are now the session's, or not needed since they are stored already."""
    taken = {file.key for file in row.files}
    for each in plan.ahead.values():
        if each.key in taken or each.sha256 in plan.reused:
            await session.delete(each)
        if each.key not in taken and each.sha256 in plan.reused:
            await discard_sent_ahead(session, each, now=now)


def record(session: AsyncSession, action: str, row: UploadRow, actor: str, now: int, **details: Any) -> None:
    """Records a change of an upload in the audit log, and notifies of the change of its model."""
    about = {"model": str(row.model_id), "name": row.model_name, "version": row.version_name}
    Audit(session, row.project_id, actor, now).done(action, f"upload:{row.id}", **about, **details)
    registry.model_changed(session, row.model_id)
