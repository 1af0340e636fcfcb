"""Moves versions between the platform's storage and the project's own: request, list, cancel."""

import uuid
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.service import quota_of
from modelshare.server.audit.service import Audit
from modelshare.server.errors import ConflictError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import parse_uuid
from modelshare.server.jobs import enqueue_if_absent
from modelshare.server.paging import Paging
from modelshare.server.registry import service as registry
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.moves import queries
from modelshare.server.registry.moves.tables import MoveRow
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.registry.uploads.rules import quota_refusal
from modelshare.server.storage.stores import PLATFORM
from modelshare.wire.base import Page
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import ModelStatus
from modelshare.wire.storage import MoveRequest, MoveState, MoveTarget, StorageMove

MOVE: Final = "registry.move"
"""The job that moves one version; its subject is the move's ID."""


async def request(platform: Platform, caller: Caller, body: MoveRequest) -> list[StorageMove]:
    """Starts moves of one version, of all of a model, or of all of the project, except of what is there already."""
    model_id = await _model_id(platform, caller, body.model) if body.model is not None else None
    async with platform.database.write() as session:
        project = await blobs.lock_project(session, caller.project)
        storage = await _target(session, caller, body.to)
        if model_id is not None:
            _require_movable(await registry.get(session, caller, model_id), body.version)
        found = await queries.movable(session, caller.project, storage, model_id, body.version)
        running = await queries.in_progress(session, [version.id for version, _, _ in found])
        for each in running.values():
            if each.storage != storage:
                raise ConflictError(
                    f"{each.model_name} {each.version_name} is being moved elsewhere. Wait for that, or cancel it: "
                    f"`modelshare storage cancel-move {each.id}`."
                )
        new = [(version, model, size) for version, model, size in found if version.id not in running]
        if storage == PLATFORM and (
            refusal := quota_refusal(
                needed=sum(size for _, _, size in new),
                stored=await blobs.stored_bytes(session, caller.project),
                quota=quota_of(project, platform.settings),
                what="Moving this to the platform",
            )
        ):
            raise PermissionDeniedError(refusal, code=ErrorCode.QUOTA_EXCEEDED)
        rows = [*running.values(), *(_start(session, caller, storage, *each, now=platform.now()) for each in new)]
        await session.flush()
        await enqueue_if_absent(session, MOVE, [str(row.id) for row in rows], now=platform.now())
    return [view(row) for row in sorted(rows, key=lambda row: row.id)]


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> Page[StorageMove]:
    rows, cursor = paging.cut(await queries.page(session, caller.project, paging.fetch_limit, paging.after_id))
    return Page.of([view(row) for row in rows], cursor)


async def cancel(session: AsyncSession, caller: Caller, move_id: str, *, now: int) -> StorageMove:
    """What was copied is deleted by the move's job. Safe to repeat; 409 if the move is done."""
    uid = parse_uuid(move_id)
    row = await queries.own(session, caller.project, uid) if uid else None
    if row is None:
        raise NotFoundError("There is no such move in your project. GET /v1/storage/moves lists them.")
    if row.state == MoveState.MOVING:
        row.state, row.ended_at, row.reason = MoveState.CANCELLED, now, None
        Audit(session, row.project_id, caller.actor, now).done(
            "model.cancel_move", f"model:{row.model_id}", name=row.model_name, version=row.version_name
        )
        await enqueue_if_absent(session, MOVE, [str(row.id)], now=now, run_now=True)
    elif row.state != MoveState.CANCELLED:
        raise ConflictError(f"This move is {row.state} already. To move the version back, start another move.")
    return view(row)


def view(row: MoveRow) -> StorageMove:
    return StorageMove(
        id=str(row.id),
        model=str(row.model_id),
        name=row.model_name,
        version=row.version_name,
        to=target_of(row),
        state=MoveState(row.state),
        reason=row.reason,
        bytes_total=row.bytes_total,
        bytes_done=row.bytes_done,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def target_of(row: MoveRow) -> MoveTarget:
    return MoveTarget.PLATFORM if row.storage == PLATFORM else MoveTarget.OWN


async def _model_id(platform: Platform, caller: Caller, reference: str) -> uuid.UUID:
    found = parse_uuid(reference) or await platform.find_own_model(caller, reference)
    if found is None:
        raise NotFoundError(
            "There is no such model in your project. GET /v1/models lists yours.", code=ErrorCode.MODEL_NOT_FOUND
        )
    return found


async def _target(session: AsyncSession, caller: Caller, to: MoveTarget) -> str:
    if to is MoveTarget.PLATFORM:
        return PLATFORM
    current = await storages.current_id(session, caller.project)
    if current == PLATFORM:
        raise ConflictError("Your project has no storage of its own. Set one first: `modelshare storage set`.")
    return current


def _require_movable(model: ModelRow, version: str | None) -> None:
    if version is None:
        return
    found = registry.version_of(model, version)
    if found.status not in {ModelStatus.READY, ModelStatus.FAILED}:
        raise ConflictError(f"Version {version} is {found.status}. Move it once it is ready.")


def _start(
    session: AsyncSession, caller: Caller, storage: str, version: VersionRow, model: ModelRow, size: int, *, now: int
) -> MoveRow:
    row = MoveRow(
        project_id=caller.project,
        version_id=version.id,
        model_id=model.id,
        model_name=model.name,
        version_name=version.version,
        storage=storage,
        state=MoveState.MOVING,
        bytes_total=size,
        created_at=now,
    )
    session.add(row)
    Audit(session, caller.project, caller.actor, now).done(
        "model.move", f"model:{model.id}", name=model.name, version=version.version, to=target_of(row)
    )
    return row
