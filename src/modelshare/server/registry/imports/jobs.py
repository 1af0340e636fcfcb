"""The job that runs an import: lists the source's files, copies them into an upload session, and completes that.

It can be killed at any point: the commit is pinned when the files were first listed, and only the storage knows which
parts are there. Nothing is published before all files are stored.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import SYSTEM, project_changed
from modelshare.server.errors import ApiError
from modelshare.server.http import Caller, Platform
from modelshare.server.jobs import Handler, Lease, TryAgainError, lease_is_valid
from modelshare.server.outages import outage_of
from modelshare.server.registry import service as registry
from modelshare.server.registry.archive_selection import choose
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.imports import queries, service
from modelshare.server.registry.imports.copying import Destination, copy_file
from modelshare.server.registry.imports.source_client import SourceAwayError, SourceClient, SourceError
from modelshare.server.registry.imports.sources import Listing, SourceFile, authorization_of, open_source
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.tables import LEFT_OUT, SOURCE, SOURCE_LICENSE, UploadRow, VersionRow
from modelshare.server.registry.uploads import completing, expiry, parts
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.sealing import SealedError
from modelshare.server.storage_errors import OwnStorageError, StorageFullError
from modelshare.wire.errors import ErrorCode
from modelshare.wire.importing import ImportState, SourceReference, parse_source
from modelshare.wire.left_out import Selection, note
from modelshare.wire.models import ModelSource, ModelStatus
from modelshare.wire.uploads import FileEntry, Upload, UploadFile, UploadOpen, UploadState

log = structlog.get_logger()

_PART: Final = 8 << 20
_FILES_AT_ONCE: Final = 4
"""Each holds about two parts in memory."""
_TURN_SECONDS: Final = 600
"""After this an import makes way for others that wait, so that slow sources cannot occupy the workers."""
_WAIT_SECONDS: Final = 5
"""Until a source that is away is asked again, unless it asks for more."""
_FIRST_PATIENCE_SECONDS: Final = 30
"""How long a source may be away before its files were listed: its address may be wrong."""
_PATIENCE_SECONDS: Final = 24 * 3600
"""How long an import may be without progress."""
_REPORT_SECONDS: Final = 2.0
_LICENSE_LENGTH: Final = 200
_GAVE_UP: Final = "The server could not store these files. Contact the platform's operator, then import it again."
_CANCELLED: Final = "Its upload was cancelled."


class _EndedError(Exception):
    """The import cannot continue."""

    def __init__(self, state: ImportState, reason: str | None) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


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
    except _EndedError as ended:
        await _end(platform, lease, row, ended)
    except (OwnStorageError, StorageFullError) as error:
        await _note(platform, row, f"Waiting: {error}")
        raise
    except Exception as error:
        if lease.last and outage_of(error) is None:
            await _end(platform, lease, row, _EndedError(ImportState.FAILED, _GAVE_UP))
        raise


async def _steps(platform: Platform, lease: Lease, row: ImportRow) -> None:
    """Raises _EndedError, TryAgainError."""
    if lease.attempts_exhausted:
        raise _EndedError(ImportState.FAILED, row.reason or _GAVE_UP)
    try:
        service.require_enabled(platform)
        token = await asyncio.to_thread(service.token_of, platform, row)
        await _Import(platform, lease, row, token).run()
    except (SourceError, ModelRejectedError) as error:
        raise _EndedError(ImportState.FAILED, str(error)) from error
    except SealedError as error:
        log.error("cannot decrypt the token of an import", error=str(error))  # noqa: TRY400 - the sentence says it all
        said = "The platform cannot decrypt the token any more. Import again, and give the token again."
        raise _EndedError(ImportState.FAILED, said) from error
    except ApiError as error:
        is_cancelled = error.code == ErrorCode.UPLOAD_NOT_OPEN
        state = ImportState.CANCELLED if is_cancelled else ImportState.FAILED
        raise _EndedError(state, _CANCELLED if is_cancelled else error.message) from error
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
        raise _EndedError(ImportState.FAILED, f"{error}. Check the source, and import it again.") from error
    await _note(platform, row, f"Waiting: {error}.")
    raise TryAgainError(max(error.after, _WAIT_SECONDS)) from error


class _Import:
    """One run of an import."""

    def __init__(self, platform: Platform, lease: Lease, row: ImportRow, token: str | None) -> None:
        self._platform = platform
        self._lease = lease
        self._row = row
        self._token = token
        self._options = row.options
        self._caller = _caller(row)
        self._reference: SourceReference = parse_source(row.source)

    async def run(self) -> None:
        await self._require_upload()
        client = SourceClient(
            self._row.endpoint,
            allow_private=self._platform.settings.import_allow_private,
            authorization=authorization_of(self._reference.kind, self._token),
            now=self._platform.clock,
        )
        try:
            source = open_source(client, self._reference, self._row.endpoint, self._token)
            listing = await source.list_files(self._row.commit)
            files, left_out = await asyncio.to_thread(self._choose, listing)
            if await self._is_there(listing.commit, files):
                return
            upload, session_row = await self._open(listing, files, left_out)
            await self._fill(client, upload, session_row, {file.path: file for file in files})
        finally:
            await client.close()
        await self._store_state()

    async def _require_upload(self) -> None:
        """Raises _EndedError if the session was cancelled. One that has expired is opened again."""
        if self._row.upload_id is not None:
            async with self._platform.database.read() as session:
                upload = await uploads.find(session, self._caller, str(self._row.upload_id))
            if upload.state == UploadState.CANCELLED:
                raise _EndedError(ImportState.CANCELLED, _CANCELLED)

    def _choose(self, listing: Listing) -> tuple[list[SourceFile], str | None]:
        """Blocks."""
        by_path = {file.path: file for file in listing.files}
        if len(by_path) < len(listing.files):
            raise SourceError("The source lists a file twice.")
        patterns = {name: self._options.get(name, ()) for name in ("include", "exclude")}
        allow_pickle = self._platform.settings.models_allow_pickle
        paths, left_out = choose(
            by_path,
            Selection.of(**patterns),
            file=self._options.get("file"),
            allow_pickle=allow_pickle,
            skip_pickles=True,
        )
        return [by_path[path] for path in paths], note(left_out)

    async def _is_there(self, commit: str, files: Sequence[SourceFile]) -> bool:
        """Whether the model has a version of this commit with these files; then that is the result."""
        if self._row.upload_id is not None:
            return False
        async with self._platform.database.write() as session:
            model = await uploads.lock_model_named(session, self._caller, self._row.name)
            for version in reversed(model.versions if model is not None else ()):
                known = version.facts.get(SOURCE, {})
                if (known.get("kind"), known.get("commit")) != (self._reference.kind, commit):
                    continue
                if self._options.get("version") in {None, version.version} and await _has(session, version, files):
                    row = await self._locked(session)
                    row.commit, row.model_id, row.version_id = commit, version.model_id, version.id
                    row.version_name, row.files = version.version, len(files)
                    row.bytes_total = row.bytes_done = sum(file.size for file in files)
                    row.state, row.token, row.reason, row.ended_at = service.STORED, None, None, self._platform.now()
                    return True
        return False

    async def _open(
        self, listing: Listing, files: Sequence[SourceFile], left_out: str | None
    ) -> tuple[Upload, UploadRow]:
        given = {name: self._options.get(name) for name in ("make_latest", "version_notes", "file", "include")}
        request = UploadOpen(
            name=self._row.name,
            version=self._row.version_name or self._options.get("version"),
            files=[FileEntry(path=file.path, size=file.size, sha256=file.sha256) for file in files],
            part_size=_PART,
            **given,
        )
        upload, _ = await uploads.open_upload(self._platform, self._caller, request)
        source = ModelSource(kind=self._reference.kind, ref=self._row.source, commit=listing.commit)
        facts = {SOURCE: source.model_dump(), SOURCE_LICENSE: (listing.license or "")[:_LICENSE_LENGTH] or None}
        try:
            async with self._platform.database.write() as session:
                opened = await uploads.find(session, self._caller, upload.id)
                row = await self._locked(session)
                row.commit, row.left_out, row.files = listing.commit, left_out, len(files)
                row.bytes_total, row.upload_id, row.version_id = opened.bytes_total, opened.id, opened.version_id
                row.model_id, row.version_name = opened.model_id, opened.version_name
                version = await session.get_one(VersionRow, opened.version_id)
                version.facts = version.facts | facts | ({LEFT_OUT: left_out} if left_out else {})
        except _EndedError:
            await expiry.cancel(self._platform, self._caller, upload.id)
            raise
        return upload, opened

    async def _fill(
        self, client: SourceClient, upload: Upload, opened: UploadRow, files: Mapping[str, SourceFile]
    ) -> None:
        platform = self._platform
        store = await platform.stores.get(opened.storage)
        progress = _Progress(platform, self._row.id, opened, upload.bytes_done, self._row.bytes_done)

        async def copy(file: UploadFile) -> None:
            begun = await parts.begin(platform, opened, [opened.files[file.n]])
            to = Destination(store, begun[file.n], frozenset(file.parts_done))
            await copy_file(client, files[file.path], to, progress)

        missing = [file for file in upload.files if len(file.parts_done) < file.parts and not file.reused]
        await map_concurrently(copy, missing, limit=_FILES_AT_ONCE)

    async def _store_state(self) -> None:
        """From here on the import cannot be cancelled."""
        async with self._platform.database.write() as session:
            row = await self._locked(session)
            row.state, row.token, row.reason, row.bytes_done = service.STORED, None, None, row.bytes_total or 0

    async def _locked(self, session: AsyncSession) -> ImportRow:
        """Raises _EndedError if the import has ended or another worker runs it."""
        row = await queries.any_import(session, self._row.id, lock=True)
        if row is None or row.state != ImportState.IMPORTING or not await lease_is_valid(session, self._lease):
            raise _EndedError(ImportState.CANCELLED, None)
        return row


class _Progress:
    """Stores how far an import is, now and then. What is sent again after an interruption does not set it back."""

    def __init__(self, platform: Platform, import_id: uuid.UUID, upload: UploadRow, done: int, before: int) -> None:
        self._platform = platform
        self._import_id = import_id
        self._upload = upload
        self._done = done
        self._before = before
        self._reported = asyncio.get_running_loop().time()
        self._end_of_turn = self._reported + _TURN_SECONDS

    async def add(self, size: int) -> None:
        """Raises _EndedError if the import was cancelled, ApiError if its upload was."""
        self._done += size
        now = asyncio.get_running_loop().time()
        if now < self._reported + _REPORT_SECONDS:
            return
        self._reported = now
        done = min(max(self._before, self._done), self._upload.bytes_total)
        async with self._platform.database.write() as session:
            if not await queries.report(session, self._import_id, done, now=self._platform.now()):
                raise _EndedError(ImportState.CANCELLED, None)
            project_changed(session, self._upload.project_id)
        await parts.keep_open(self._platform, self._upload)

    def check_time(self) -> None:
        if asyncio.get_running_loop().time() > self._end_of_turn:
            raise TryAgainError(0)


async def _has(session: AsyncSession, version: VersionRow, files: Sequence[SourceFile]) -> bool:
    """Whether the version has these files; of one that is being processed that is not known yet."""
    if version.status == ModelStatus.PROCESSING:
        return True
    stored = await registry.stored_files(session, version.id) if version.status == ModelStatus.READY else []
    return {(file.path, file.size) for file in stored} == {(file.path, file.size) for file in files}


async def _settle(platform: Platform, lease: Lease, known: ImportRow) -> None:
    """Completes the upload of an import whose files are all stored, cancels the upload of one that has failed."""
    async with platform.database.read() as session:
        row = await queries.any_import(session, known.id)
    if row is None or row.upload_id is None:
        return
    caller = _caller(row)
    if row.state != service.STORED:
        async with platform.database.read() as session:
            upload = await uploads.find(session, caller, str(row.upload_id))
        if upload.state == UploadState.OPEN:
            await expiry.cancel(platform, caller, str(row.upload_id))
    elif row.ended_at is None:
        try:
            await completing.complete(platform, caller, str(row.upload_id), [])
        except ApiError as error:
            raise _EndedError(ImportState.FAILED, error.message) from error
        async with platform.database.write() as session:
            locked = await queries.any_import(session, row.id, lock=True)
            if locked is not None and await lease_is_valid(session, lease):
                locked.ended_at = platform.now()


async def _end(platform: Platform, lease: Lease, known: ImportRow, ended: _EndedError) -> None:
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


def _caller(row: ImportRow) -> Caller:
    """Who asked for the import, for what is done in their name."""
    kind, _, id_ = row.actor.partition(":")
    who = uuid.UUID(id_)
    return Caller(
        key_id=who if kind == "key" else None,
        person_id=who if kind == "person" else None,
        project_id=row.project_id,
        project_slug=None,
        scopes=frozenset(),
    )
