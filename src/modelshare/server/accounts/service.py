"""Projects and keys: create, authenticate, rotate, revoke."""

import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import queries
from modelshare.server.accounts.rules import Reach, beyond, effective_scopes, hint, is_allowed_from, is_valid
from modelshare.server.accounts.tables import KeyRow, KeyValueRow, ProjectRow
from modelshare.server.audit import service as audit
from modelshare.server.db import Database, is_unique_violation, notify
from modelshare.server.errors import ApiError, Conflict, NotFound, PermissionDenied
from modelshare.server.http import Caller, Paging, decode_cursor, encode_cursor
from modelshare.server.ids import new_secret, parse_uuid, secret_hash
from modelshare.wire.base import Page
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import Key, KeyCreate, KeyWithValue, Project, ProjectCreate, ProjectWithKey, Scope

KEYS_TOPIC = "keys"
"""Notification that a key changed; the subject is its id."""
CACHE_SECONDS = 1.0
"""The longest a process may go by what it remembers of a key, should a notification be lost."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a process remembers of one value."""

    loaded: float
    caller: Caller | None
    revoked_at: int | None = None
    value_expires_at: int | None = None


class KeyRing:
    """Authenticates values of keys; remembers them for a second, and forgets at once what a notification names."""

    def __init__(self, database: Database, clock: Callable[[], float], most: int = 50_000) -> None:
        self._database = database
        self._clock = clock
        self._most = most
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._forgotten = 0
        """How often something was forgotten: what was read before that is not remembered."""
        self._used = dict[uuid.UUID, int]()
        """When keys were last good, since `note_use`."""
        database.subscribe(KEYS_TOPIC, self._forget)

    async def authenticate(self, secret: str, address: str) -> Caller | None:
        """The caller whose key this is, or None when the value is unknown, over, revoked or used from elsewhere."""
        value_hash = secret_hash(secret)
        now = self._clock()
        known = self._known.get(value_hash)
        if known is None or now - known.loaded >= CACHE_SECONDS:
            known = await self._load(value_hash, now)
        caller = known.caller
        if caller is None:
            return None
        good = is_valid(
            now=int(now),
            expires_at=caller.expires_at,
            revoked_at=known.revoked_at,
            value_expires_at=known.value_expires_at,
        )
        if not good or not is_allowed_from(address, caller.allowed_ips):
            return None
        self._used[caller.key_id] = int(now)
        return caller

    async def note_use(self) -> None:
        """Writes down when keys were last used; call it now and then. What cannot be written waits for another time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self._database.write() as session:
                await queries.set_last_used(session, used)
        except Exception:
            self._used = used | self._used
            raise

    async def _load(self, value_hash: str, now: float) -> _Known:
        forgotten = self._forgotten
        async with self._database.read() as session:
            value = await queries.key_value(session, value_hash)
        known = _Known(now, None) if value is None else _known(value, now)
        if forgotten != self._forgotten:
            return known
        self._known[value_hash] = known
        self._known.move_to_end(value_hash)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return known

    def _forget(self, subject: str) -> None:
        self._forgotten += 1
        for value_hash, known in list(self._known.items()):
            if subject == "*" or (known.caller and str(known.caller.key_id) == subject):
                del self._known[value_hash]


async def create_project(session: AsyncSession, request: ProjectCreate, *, now: int, actor: str) -> ProjectWithKey:
    """A project and its first key, which has every scope. 409 when the slug is taken."""
    project = ProjectRow(name=request.name, slug=request.slug, quota_bytes=request.quota_bytes, created_at=now)
    session.add(project)
    try:
        await session.flush()
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise Conflict(
            f"There is a project `{request.slug}` already. Choose another slug.",
            code=ErrorCode.SLUG_TAKEN,
            param="slug",
        ) from error
    _, secret = await _new_key(session, project, KeyCreate(name="first key"), now=now)
    audit.record(
        session,
        project_id=project.id,
        now=now,
        actor=actor,
        action="project.create",
        target=f"project:{project.id}",
        slug=project.slug,
    )
    return ProjectWithKey(**project_view(project).model_dump(), api_key=secret)


async def create_platform_key(session: AsyncSession, name: str, *, now: int) -> str:
    """A key of the platform operator; its value is answered this once."""
    secret = new_secret("msp")
    row = KeyRow(project_id=None, name=name, hint=hint(secret), scopes=[], allowed_ips=[], created_at=now)
    session.add(row)
    await session.flush()
    session.add(KeyValueRow(hash=secret_hash(secret), key_id=row.id))
    audit.record(
        session, project_id=None, now=now, actor=audit.SYSTEM, action="key.create", target=f"key:{row.id}", name=name
    )
    return secret


async def has_platform_key(session: AsyncSession) -> bool:
    return await queries.has_platform_key(session)


async def create_key(session: AsyncSession, caller: Caller, request: KeyCreate, *, now: int) -> KeyWithValue:
    networks = tuple(str(network) for network in request.allowed_ips)
    _check_reach(
        caller,
        Reach(effective_scopes(request.scopes, request.endpoint), request.endpoint, networks, _end(request, now)),
    )
    project = await queries.project(session, caller.project)
    assert project is not None  # noqa: S101 - the caller's key refers to it
    row, secret = await _new_key(session, project, request, now=now)
    _record(session, caller, "key.create", row, now)
    return KeyWithValue(**_view(row).model_dump(), key=secret)


async def list_keys(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Key]:
    rows = await queries.keys(session, caller.project, paging.limit + 1, paging.after_id)
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    return Page(
        data=[_view(row) for row in rows], has_more=more, next_cursor=encode_cursor(str(rows[-1].id)) if more else None
    )


async def rotate_key(
    session: AsyncSession, caller: Caller, key_id: str, *, now: int, grace_seconds: int
) -> KeyWithValue:
    """A new value; the newest old one works for `grace_seconds` more, older ones end now."""
    row = await _own_key(session, caller, key_id)
    _check_reach(
        caller, Reach(effective_scopes(row.scopes, row.endpoint), row.endpoint, tuple(row.allowed_ips), row.expires_at)
    )
    if row.revoked_at is not None:
        raise Conflict("This key is revoked. Create a new one with POST /v1/keys.")
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
    notify(session, KEYS_TOPIC, str(row.id))
    return KeyWithValue(**_view(row).model_dump(), key=secret, old_value_valid_until=until)


async def revoke_key(session: AsyncSession, caller: Caller, key_id: str, *, now: int) -> None:
    row = await _own_key(session, caller, key_id)
    if row.revoked_at is None:
        row.revoked_at = now
        _record(session, caller, "key.revoke", row, now)
        notify(session, KEYS_TOPIC, str(row.id))


async def list_projects(session: AsyncSession, paging: Paging) -> Page[Project]:
    after = None
    if paging.after:
        created_at, project_id = decode_cursor(paging.after, int, str)
        after = (created_at, project_id)
    rows = await queries.projects(session, paging.limit + 1, after)
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    return Page(
        data=[project_view(row) for row in rows],
        has_more=more,
        next_cursor=encode_cursor(rows[-1].created_at, rows[-1].id) if more else None,
    )


async def get_project(session: AsyncSession, project_id: str) -> Project | None:
    row = await queries.project(session, project_id)
    return None if row is None else project_view(row)


async def record_refusal(database: Database, caller: Caller, error: ApiError, *, now: int) -> None:
    """Keeps in the audit log, in a transaction of its own, that an action was refused and why."""
    if error.refusal is None:
        return
    async with database.write() as session:
        audit.record(
            session,
            project_id=caller.project_id,
            now=now,
            actor=caller.actor,
            action=error.refusal.action,
            target=error.refusal.target,
            reason=error.message,
            refused=True,
        )


def project_view(row: ProjectRow) -> Project:
    return Project(id=row.id, name=row.name, slug=row.slug, quota_bytes=row.quota_bytes, created_at=row.created_at)


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
        raise NotFound("There is no such key in your project. GET /v1/keys lists them.")
    return row


def _check_reach(caller: Caller, wanted: Reach) -> None:
    refusal = beyond(Reach(caller.scopes, caller.endpoint, caller.allowed_ips, caller.expires_at), wanted)
    if refusal is not None:
        raise PermissionDenied(refusal)


def _end(request: KeyCreate, now: int) -> int | None:
    return now + request.expires_in if request.expires_in else None


def _record(session: AsyncSession, caller: Caller, action: str, row: KeyRow, now: int) -> None:
    audit.record(
        session,
        project_id=caller.project,
        now=now,
        actor=caller.actor,
        action=action,
        target=f"key:{row.id}",
        name=row.name,
    )


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
    )


def _known(value: KeyValueRow, now: float) -> _Known:
    key = value.key
    caller = Caller(
        key_id=key.id,
        project_id=key.project_id,
        project_slug=key.project.slug if key.project else None,
        scopes=effective_scopes(key.scopes, key.endpoint),
        endpoint=key.endpoint,
        allowed_ips=tuple(key.allowed_ips),
        expires_at=key.expires_at,
        is_platform=key.project_id is None,
    )
    return _Known(now, caller, key.revoked_at, value.expires_at)
