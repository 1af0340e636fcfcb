"""Projects and keys: create, rotate, suspend, revoke."""

import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import queries
from modelshare.server.accounts.key_auth import KEYS_TOPIC
from modelshare.server.accounts.rules import Reach, beyond, effective_scopes, hint
from modelshare.server.accounts.tables import KeyRow, KeyValueRow, ProjectRow
from modelshare.server.audit.service import SYSTEM, Audit
from modelshare.server.db import Database, is_unique_violation, notify
from modelshare.server.errors import ApiError, ConflictError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller
from modelshare.server.ids import new_secret, parse_uuid, secret_hash
from modelshare.server.paging import Paging
from modelshare.server.settings import Settings
from modelshare.wire.base import Page
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import (
    MICROS,
    NO_LIMITS,
    Key,
    KeyCreate,
    KeyPatch,
    KeyWithValue,
    Project,
    ProjectCreate,
    ProjectPatch,
    ProjectSettings,
    ProjectWithKey,
    Scope,
)


async def create_project(session: AsyncSession, request: ProjectCreate, *, now: int, actor: str) -> ProjectWithKey:
    """Creates a project and its first key, which has all scopes. 409 if the slug is taken."""
    project = await new_project(session, request, now=now, actor=actor)
    _, secret = await _new_key(session, project, KeyCreate(name="first key"), now=now)
    return ProjectWithKey(**project_view(project).model_dump(), api_key=secret)


async def new_project(session: AsyncSession, request: ProjectCreate, *, now: int, actor: str) -> ProjectRow:
    """Creates a project without a key. 409 if the slug is taken."""
    project = ProjectRow(name=request.name, slug=request.slug, quota_bytes=request.quota_bytes, created_at=now)
    session.add(project)
    try:
        await session.flush()
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise ConflictError(
            f"There is a project `{request.slug}` already. Choose another slug.",
            code=ErrorCode.SLUG_TAKEN,
            param="slug",
        ) from error
    Audit(session, project.id, actor, now).done("project.create", f"project:{project.id}", slug=project.slug)
    return project


async def change_project(
    session: AsyncSession, project_id: str, request: ProjectPatch, *, now: int, actor: str
) -> Project:
    """Sets the project's quota for future pushes; stored files are kept. 404 for an unknown project."""
    project = await queries.lock_project(session, project_id)
    if project is None:
        raise _no_project()
    if "quota_bytes" not in request.model_fields_set or request.quota_bytes == project.quota_bytes:
        return project_view(project)
    Audit(session, project.id, actor, now).done(
        "project.change_quota",
        f"project:{project.id}",
        slug=project.slug,
        quota=request.quota_bytes,
        quota_before=project.quota_bytes,
    )
    project.quota_bytes = request.quota_bytes
    return project_view(project)


async def own_project(session: AsyncSession, caller: Caller) -> Project:
    """The caller's own project."""
    row = await queries.project(session, caller.project)
    if row is None:
        raise _no_project()
    return project_view(row)


async def change_settings(session: AsyncSession, caller: Caller, request: ProjectSettings, *, now: int) -> Project:
    """Changes what the project requires of signatures, for endpoints that are created from now on, and its budget."""
    row = await queries.lock_project(session, caller.project)
    if row is None:
        raise _no_project()
    before = row.require_signature, row.allowed_signers
    if request.require_signature is not None:
        row.require_signature = request.require_signature
    if request.allowed_signers is not None:
        row.allowed_signers = sorted(set(request.allowed_signers))
    if before != (row.require_signature, row.allowed_signers):
        Audit(session, row.id, caller.actor, now).done(
            "project.change_signatures",
            f"project:{row.id}",
            slug=row.slug,
            required=row.require_signature,
            allowed_signers=row.allowed_signers,
        )
    if "monthly_budget" in request.model_fields_set:
        _change_budget(session, caller, row, request.monthly_budget, now)
    return project_view(row)


def _change_budget(session: AsyncSession, caller: Caller, row: ProjectRow, budget: float | None, now: int) -> None:
    micros = None if budget is None else round(budget * MICROS)
    if micros == row.monthly_budget:
        return
    before = None if row.monthly_budget is None else row.monthly_budget / MICROS
    row.monthly_budget = micros
    Audit(session, row.id, caller.actor, now).done(
        "project.change_budget", f"project:{row.id}", slug=row.slug, budget=budget, budget_before=before
    )


async def create_platform_key(session: AsyncSession, name: str, *, now: int) -> str:
    """Creates a platform key; its value is returned only here."""
    secret = new_secret("msp")
    row = KeyRow(project_id=None, name=name, hint=hint(secret), scopes=[], allowed_ips=[], created_at=now)
    session.add(row)
    await session.flush()
    session.add(KeyValueRow(hash=secret_hash(secret), key_id=row.id))
    Audit(session, None, SYSTEM, now).done("key.create", f"key:{row.id}", name=name)
    return secret


async def has_platform_key(session: AsyncSession) -> bool:
    return await queries.has_platform_key(session)


async def create_key(session: AsyncSession, caller: Caller, request: KeyCreate, *, now: int) -> KeyWithValue:
    networks = tuple(str(network) for network in request.allowed_ips)
    scopes = effective_scopes(request.scopes, request.endpoint)
    _check_reach(caller, Reach(scopes, request.endpoint, networks, _end(request, now), request.limits))
    project = await queries.project(session, caller.project)
    assert project is not None  # noqa: S101 - the caller's key refers to it
    row, secret = await _new_key(session, project, request, now=now)
    _record(session, caller, "key.create", row, now)
    return KeyWithValue(**_view(row).model_dump(), key=secret)


async def list_keys(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Key]:
    rows = await queries.keys(session, caller.project, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of([_view(row) for row in rows], cursor)


async def limited_keys(session: AsyncSession, caller: Caller, limit: int) -> list[Key]:
    """The project's keys with limits of their own, newest first, without revoked ones."""
    return [_view(row) for row in await queries.limited_keys(session, caller.project, limit)]


async def get_key(session: AsyncSession, caller: Caller, key_id: str) -> Key:
    """A key of the project, without its value; 404 otherwise."""
    uid = parse_uuid(key_id)
    rows = await queries.keys_by_id(session, caller.project, [uid]) if uid else []
    if not rows:
        raise _no_key()
    return _view(rows[0])


async def key_names(session: AsyncSession, caller: Caller, key_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Names of those of the IDs that are keys of the project."""
    rows = await queries.keys_by_id(session, caller.project, key_ids) if key_ids else []
    return {row.id: row.name for row in rows}


async def rotate_key(
    session: AsyncSession, caller: Caller, key_id: str, *, now: int, grace_seconds: int
) -> KeyWithValue:
    """Creates a new value. The previous one stays valid for `grace_seconds`; older ones end now."""
    row = await _own_key(session, caller, key_id)
    _check_reach(caller, _reach(row))
    _check_not_revoked(row)
    until = now + grace_seconds
    for value in await queries.values_of(session, row.id):
        if value.expires_at is None:
            value.expires_at = until
        else:
            await session.delete(value)
    secret = new_secret(f"ms_{caller.project_slug}")
    session.add(KeyValueRow(hash=secret_hash(secret), key_id=row.id))
    row.hint = hint(secret)
    _record(session, caller, "key.rotate", row, now)
    return KeyWithValue(**_view(row).model_dump(), key=secret, old_value_valid_until=until)


async def suspend_key(session: AsyncSession, caller: Caller, key_id: str, *, is_suspended: bool, now: int) -> Key:
    """Suspends a key with all its values, or resumes it. Safe to repeat."""
    row = await _own_key(session, caller, key_id)
    _check_not_revoked(row)
    if (row.suspended_at is not None) != is_suspended:
        row.suspended_at = now if is_suspended else None
        _record(session, caller, "key.suspend" if is_suspended else "key.resume", row, now)
    return _view(row)


async def change_key(session: AsyncSession, caller: Caller, key_id: str, request: KeyPatch, *, now: int) -> Key:
    """Sets what the key may use, from now on."""
    row = await _own_key(session, caller, key_id)
    _check_not_revoked(row)
    changes = {name: getattr(request, name) for name in request.model_fields_set}
    if all(getattr(row, name) == value for name, value in changes.items()):
        return _view(row)
    for name, value in changes.items():
        setattr(row, name, value)
    _check_reach(caller, _reach(row))
    _record(session, caller, "key.change_limits", row, now, **row.limits._asdict())
    return _view(row)


async def revoke_key(session: AsyncSession, caller: Caller, key_id: str, *, now: int) -> None:
    row = await _own_key(session, caller, key_id)
    if row.revoked_at is None:
        row.revoked_at = now
        _record(session, caller, "key.revoke", row, now)


async def list_projects(session: AsyncSession, paging: Paging) -> Page[Project]:
    rows = await queries.projects(session, paging.fetch_limit, paging.after_row(int, str))
    rows, cursor = paging.cut(rows, lambda row: (row.created_at, row.id))
    return Page.of([project_view(row) for row in rows], cursor)


async def count_projects(session: AsyncSession, limit: int) -> int:
    """The number of projects, counted up to `limit`."""
    return await queries.count_projects(session, limit)


async def get_project(session: AsyncSession, project_id: str) -> Project | None:
    row = await queries.project(session, project_id)
    return None if row is None else project_view(row)


async def find_projects(session: AsyncSession, names: Collection[str]) -> dict[str, ProjectRow]:
    """Projects by slug or ID, for those of `names` that exist."""
    rows = await queries.projects_named(session, names)
    by_name = {row.slug: row for row in rows} | {row.id: row for row in rows}
    return {name: by_name[name] for name in names if name in by_name}


async def record_refusal(database: Database, caller: Caller, error: ApiError, *, now: int) -> None:
    """Records a refused action and the reason in the audit log, in a separate transaction."""
    if error.refusal is None:
        return
    async with database.write() as session:
        log = Audit(session, caller.project_id, caller.actor, now)
        log.refused(error.refusal.action, error.refusal.target, error.message)


def quota_of(project: ProjectRow, settings: Settings) -> int:
    """Bytes that the project may store: its own quota, or the platform's default."""
    return settings.projects_quota_bytes if project.quota_bytes is None else project.quota_bytes


def project_view(row: ProjectRow) -> Project:
    return Project(
        id=row.id,
        name=row.name,
        slug=row.slug,
        quota_bytes=row.quota_bytes,
        monthly_budget=None if row.monthly_budget is None else row.monthly_budget / MICROS,
        require_signature=row.require_signature,
        allowed_signers=row.allowed_signers,
        created_at=row.created_at,
    )


async def _new_key(session: AsyncSession, project: ProjectRow, request: KeyCreate, *, now: int) -> tuple[KeyRow, str]:
    secret = new_secret(f"ms_{project.slug}")
    row = KeyRow(
        project_id=project.id,
        name=request.name,
        hint=hint(secret),
        scopes=[scope.value for scope in request.scopes],
        allowed_ips=[str(network) for network in request.allowed_ips],
        endpoint=request.endpoint,
        created_at=now,
        expires_at=_end(request, now),
        **request.limits._asdict(),
    )
    session.add(row)
    await session.flush()
    session.add(KeyValueRow(hash=secret_hash(secret), key_id=row.id))
    await session.flush()
    return row, secret


async def _own_key(session: AsyncSession, caller: Caller, key_id: str) -> KeyRow:
    uid = parse_uuid(key_id)
    row = await queries.lock_key(session, caller.project, uid) if uid else None
    if row is None:
        raise _no_key()
    return row


def _check_not_revoked(row: KeyRow) -> None:
    if row.revoked_at is not None:
        raise ConflictError("This key is revoked. Create a new one.")


def _no_project() -> NotFoundError:
    return NotFoundError(
        "There is no such project. GET /v1/platform/projects lists them.", code=ErrorCode.PROJECT_NOT_FOUND
    )


def _no_key() -> NotFoundError:
    return NotFoundError("There is no such key in your project. GET /v1/keys lists them.")


def _check_reach(caller: Caller, wanted: Reach) -> None:
    own = Reach(caller.scopes, caller.endpoint, caller.allowed_ips, caller.expires_at, caller.limits or NO_LIMITS)
    refusal = beyond(own, wanted)
    if refusal is not None:
        raise PermissionDeniedError(refusal)


def _end(request: KeyCreate, now: int) -> int | None:
    return now + request.expires_in if request.expires_in else None


def _reach(row: KeyRow) -> Reach:
    scopes = effective_scopes(row.scopes, row.endpoint)
    return Reach(scopes, row.endpoint, tuple(row.allowed_ips), row.expires_at, row.limits)


def _record(session: AsyncSession, caller: Caller, action: str, row: KeyRow, now: int, **details: Any) -> None:
    """Call after every change of a key: records it in the audit log and notifies of it."""
    Audit(session, caller.project, caller.actor, now).done(action, f"key:{row.id}", name=row.name, **details)
    if action != "key.create":
        notify(session, KEYS_TOPIC, str(row.id))


def _view(row: KeyRow) -> Key:
    return Key(
        id=str(row.id),
        name=row.name,
        hint=row.hint,
        scopes=[Scope(scope) for scope in row.scopes],
        allowed_ips=row.allowed_ips,
        endpoint=row.endpoint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        suspended_at=row.suspended_at,
        **row.limits._asdict(),
    )
