"""Imports of models from other places: request, show, cancel. The job that does the work is in `jobs`."""

from typing import Final
from urllib.parse import urlsplit

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import public_addresses
from modelshare.server.audit.service import Audit
from modelshare.server.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import new_id, parse_uuid
from modelshare.server.jobs import enqueue, enqueue_if_absent
from modelshare.server.paging import Paging
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.imports import queries
from modelshare.server.registry.imports.queries import VersionOutcome
from modelshare.server.registry.imports.source_client import LIMITS, allows_private
from modelshare.server.registry.imports.sources import endpoint_of
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.sealing import Keyring, SealedError
from modelshare.wire.base import Page
from modelshare.wire.importing import Import, ImportCreate, ImportState, parse_source
from modelshare.wire.models import ModelStatus

log = structlog.get_logger()

IMPORT: Final = "registry.import"
"""The job that runs an import; its subject is the import's ID."""
STORED: Final = "stored"
"""The state of an import whose files are all stored; the version's own status says the rest."""
_EXAMPLE: Final = "https://hub.example.org"
_OPTIONS: Final = ("version", "make_latest", "version_notes", "file", "include", "exclude", "token_host")


async def create(platform: Platform, caller: Caller, spec: ImportCreate) -> tuple[Import, bool]:
    """Starts an import; or returns the one in progress with the same source and options, and False."""
    require_enabled(platform)
    reference = parse_source(spec.source)
    name = spec.name or reference.default_name
    if name is None:
        raise InvalidRequestError("The source's name cannot be a model's name. Choose one: `name`.", param="name")
    endpoint = endpoint_of(reference, spec.endpoint, platform.settings.import_hf_endpoint)
    _check_endpoint(platform, endpoint)
    row = ImportRow(
        id=new_id(),
        project_id=caller.project,
        actor=caller.actor,
        source=spec.source,
        endpoint=endpoint,
        name=name,
        options=spec.model_dump(include=set(_OPTIONS), exclude_none=True),
        state=ImportState.IMPORTING,
        created_at=platform.now(),
        progressed_at=platform.now(),
    )
    if spec.token is not None:
        try:
            row.token = Keyring(platform.settings).seal(spec.token, _about(row))
        except SealedError as error:
            log.error("cannot encrypt the token of an import", error=str(error))  # noqa: TRY400 - the sentence says it all
            raise UnavailableError("The platform cannot store credentials. Tell its operator.") from error
    async with platform.database.write() as session:
        await blobs.lock_project(session, caller.project)
        await uploads.lock_model_named(session, caller, name)  # refuses names that differ in case only
        running = await queries.in_progress(session, caller.project)
        same = next((each for each in running if _is_same(each, row)), None)
        if same is not None:
            return (await _views(session, [same]))[0], False
        limit = platform.settings.uploads_open_per_project
        if len(running) >= limit:
            raise ConflictError(f"Your project has {limit} imports in progress, the maximum. Cancel one, or wait.")
        session.add(row)
        await session.flush()
        _audit(session, row, caller.actor, platform.now()).done(
            "import.start", f"import:{row.id}", source=row.source, name=name
        )
        await enqueue(session, IMPORT, str(row.id), now=platform.now())
    return view(row, None), True


async def get(session: AsyncSession, caller: Caller, import_id: str) -> Import:
    return (await _views(session, [await _find(session, caller, import_id)]))[0]


async def page(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Import]:
    """Newest first."""
    rows, cursor = paging.cut(await queries.page(session, caller.project, paging.fetch_limit, paging.after_id))
    return Page.of(await _views(session, rows), cursor)


async def cancel(session: AsyncSession, caller: Caller, import_id: str, *, now: int) -> Import:
    """What has arrived is deleted by the import's job. Safe to repeat; 409 if the import has ended."""
    row = await _find(session, caller, import_id, lock=True)
    if row.state == ImportState.IMPORTING:
        end(session, row, ImportState.CANCELLED, None, caller.actor, now=now)
        await enqueue_if_absent(session, IMPORT, [str(row.id)], now=now, run_now=True)
    elif row.state == STORED:
        raise ConflictError("All files have been imported. Delete the version instead: `modelshare models delete`.")
    elif row.state != ImportState.CANCELLED:
        raise ConflictError(f"This import has {row.state} already.")
    return view(row, None)


def end(session: AsyncSession, row: ImportRow, state: ImportState, reason: str | None, actor: str, *, now: int) -> None:
    """Ends a locked import without a version, and forgets its token."""
    row.state, row.reason, row.ended_at, row.token = state, reason, now, None
    action = "import.cancel" if state is ImportState.CANCELLED else "import.fail"
    _audit(session, row, actor, now).done(action, f"import:{row.id}", reason, source=row.source, name=row.name)


def require_enabled(platform: Platform) -> None:
    if not platform.settings.import_enabled:
        raise PermissionDeniedError("This platform does not import models. Download it, and push it.")


def token_of(platform: Platform, row: ImportRow) -> str | None:
    """Blocks. Raises SealedError."""
    return Keyring(platform.settings).open(row.token, _about(row)) if row.token is not None else None


async def seal_again(session: AsyncSession, keyring: Keyring) -> int:
    """Encrypts all tokens with the newest sealing key; returns how many. Raises SealedError."""
    rows = await queries.with_tokens(session)
    for row in rows:
        if row.token is not None:
            row.token = keyring.seal(keyring.open(row.token, _about(row)), _about(row))
    return len(rows)


def view(row: ImportRow, outcome: VersionOutcome | None) -> Import:
    state, reason = _state(row, outcome)
    return Import(
        id=str(row.id),
        source=row.source,
        endpoint=row.endpoint,
        commit=row.commit,
        name=row.name,
        model=str(row.model_id) if row.model_id else None,
        version=row.version_name,
        state=state,
        reason=reason,
        is_new=True if row.upload_id is not None else False if row.state == STORED else None,
        left_out=row.left_out,
        files=row.files,
        bytes_total=row.bytes_total,
        bytes_done=row.bytes_done,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _state(row: ImportRow, outcome: VersionOutcome | None) -> tuple[ImportState, str | None]:
    if row.state != STORED:
        return ImportState(row.state), row.reason
    if outcome is None:
        return ImportState.READY, "The version has been deleted since."
    if outcome.status == ModelStatus.FAILED:
        return ImportState.FAILED, outcome.reason
    return (ImportState.READY if outcome.status == ModelStatus.READY else ImportState.PROCESSING), outcome.reason


async def _views(session: AsyncSession, rows: list[ImportRow]) -> list[Import]:
    outcome = await queries.versions(session, [row.version_id for row in rows if row.version_id])
    return [view(row, outcome.get(row.version_id) if row.version_id else None) for row in rows]


async def _find(session: AsyncSession, caller: Caller, import_id: str, *, lock: bool = False) -> ImportRow:
    uid = parse_uuid(import_id)
    row = await queries.own(session, caller.project, uid, lock=lock) if uid else None
    if row is None:
        raise NotFoundError("There is no such import in your project. GET /v1/imports lists them.")
    return row


def _check_endpoint(platform: Platform, endpoint: str) -> None:
    may_be_private = allows_private(platform.settings, endpoint)
    refusal = public_addresses.url_refusal(endpoint, allow_private=may_be_private, example=_EXAMPLE, limits=LIMITS)
    if refusal is not None and endpoint.startswith("http://"):
        refusal = LIMITS
    if refusal is None:
        parts = urlsplit(endpoint)
        if "@" in parts.netloc or parts.query or parts.fragment:
            refusal = f"Write the endpoint without user, query and fragment, such as {_EXAMPLE}."
    if refusal is not None:
        raise InvalidRequestError(refusal, param="endpoint")


def _is_same(one: ImportRow, other: ImportRow) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("source", "endpoint", "name", "options"))


def _about(row: ImportRow) -> tuple[str, ...]:
    """What the token is sealed for: it does not open in another row, nor for another endpoint."""
    hosts = [row.endpoint, *filter(None, [row.options.get("token_host")])]
    return ("import token", row.project_id, row.id.hex, *hosts)


def _audit(session: AsyncSession, row: ImportRow, actor: str, now: int) -> Audit:
    return Audit(session, row.project_id, actor, now)
