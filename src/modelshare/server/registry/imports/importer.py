"""One run of an import: lists the source's files, copies them into an upload session, and marks them as stored."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import project_changed
from modelshare.server.http import Caller, Platform
from modelshare.server.jobs import Lease, TryAgainError, lease_is_valid, progressed
from modelshare.server.registry import service as registry
from modelshare.server.registry.archive_selection import choose
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.imports import queries, service
from modelshare.server.registry.imports.copying import Destination, copy_file
from modelshare.server.registry.imports.source_client import SourceClient, SourceError, allows_private
from modelshare.server.registry.imports.sources import (
    Listing,
    Source,
    SourceFile,
    authorization_of,
    endpoint_of,
    open_source,
)
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.tables import LEFT_OUT, SOURCE, SOURCE_LICENSE, UploadRow, VersionRow
from modelshare.server.registry.uploads import expiry, parts
from modelshare.server.registry.uploads import service as uploads
from modelshare.wire.importing import ImportState, SourceReference, parse_source
from modelshare.wire.left_out import Selection, note
from modelshare.wire.models import ModelSource, ModelStatus
from modelshare.wire.uploads import FileEntry, Upload, UploadFile, UploadOpen, UploadState

_PART: Final = 8 << 20
_FILES_AT_ONCE: Final = 4
"""Each holds about two parts in memory."""
_TURN_SECONDS: Final = 600
"""After this an import makes way for others that wait, so that slow sources cannot occupy the workers."""
_LISTING_SECONDS: Final = 300
_REPORT_SECONDS: Final = 2.0
_LICENSE_LENGTH: Final = 200
CANCELLED: Final = "Its upload was cancelled."


class ImportEndedError(Exception):
    """The import cannot continue."""

    def __init__(self, state: ImportState, reason: str | None) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


class Importer:
    """One run of an import."""

    def __init__(self, platform: Platform, lease: Lease, row: ImportRow, token: str | None) -> None:
        self._platform = platform
        self._lease = lease
        self._row = row
        self._token = token
        self._options = row.options
        self._caller = caller_of(row)
        self._reference: SourceReference = parse_source(row.source)

    async def run(self) -> None:
        await self._require_upload()
        client = SourceClient(
            self._row.endpoint,
            allows_private=partial(allows_private, self._platform.settings),
            authorization=authorization_of(self._reference.kind, self._token),
            now=self._platform.clock,
            token_host=self._options.get("token_host"),
        )
        try:
            source = open_source(client, self._reference, self._row.endpoint, self._token)
            listing = await self._list(source)
            files, left_out = await asyncio.to_thread(self._choose, listing)
            if await self._is_there(listing.commit, files):
                return
            upload, session_row = await self._open(listing, files, left_out)
            await self._fill(client, upload, session_row, {file.path: file for file in files})
        finally:
            await client.close()
        await self._store_state()

    async def _require_upload(self) -> None:
        """Raises ImportEndedError if the session was cancelled. One that has expired is forgotten."""
        state = await upload_state(self._platform, self._row)
        if state == UploadState.CANCELLED:
            raise ImportEndedError(ImportState.CANCELLED, CANCELLED)
        if state == UploadState.EXPIRED:
            self._row.upload_id = self._row.version_name = None

    async def _list(self, source: Source) -> Listing:
        try:
            async with asyncio.timeout(_LISTING_SECONDS):
                return await source.list_files(self._row.commit)
        except TimeoutError as error:
            raise SourceError("The source takes too long to list its files. Try again later.") from error

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
                known = ModelSource(**version.facts[SOURCE]) if SOURCE in version.facts else None
                if known is None or known != self._source(commit).model_copy(update={"ref": known.ref}):
                    continue
                if self._options.get("version") in {None, version.version} and await _has(session, version, files):
                    row = await self._locked(session)
                    row.commit, row.model_id, row.version_id = commit, version.model_id, version.id
                    row.version_name, row.files = version.version, len(files)
                    row.bytes_total = row.bytes_done = sum(file.size for file in files)
                    row.state, row.token, row.reason, row.ended_at = service.STORED, None, None, self._platform.now()
                    return True
        return False

    def _source(self, commit: str) -> ModelSource:
        default = endpoint_of(self._reference, None, self._platform.settings.import_hf_endpoint)
        endpoint = self._row.endpoint if self._row.endpoint != default else None
        return ModelSource(kind=self._reference.kind, ref=self._row.source, commit=commit, endpoint=endpoint)

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
        source = self._source(listing.commit)
        facts = {
            SOURCE: source.model_dump(exclude_none=True),
            SOURCE_LICENSE: (listing.license or "")[:_LICENSE_LENGTH] or None,
        }
        try:
            async with self._platform.database.write() as session:
                opened = await uploads.find(session, self._caller, upload.id)
                row = await self._locked(session)
                row.commit, row.left_out, row.files = listing.commit, left_out, len(files)
                row.bytes_total, row.upload_id, row.version_id = opened.bytes_total, opened.id, opened.version_id
                row.model_id, row.version_name = opened.model_id, opened.version_name
                version = await session.get_one(VersionRow, opened.version_id)
                version.facts = version.facts | facts | ({LEFT_OUT: left_out} if left_out else {})
        except ImportEndedError:
            await expiry.cancel(self._platform, self._caller, upload.id)
            raise
        return upload, opened

    async def _fill(
        self, client: SourceClient, upload: Upload, opened: UploadRow, files: Mapping[str, SourceFile]
    ) -> None:
        platform = self._platform
        store = await platform.stores.get(opened.storage)
        progress = _Progress(platform, self._lease, self._row, opened, upload.bytes_done)

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
        """Raises ImportEndedError if the import has ended or another worker runs it."""
        row = await queries.any_import(session, self._row.id, lock=True)
        if row is None or row.state != ImportState.IMPORTING or not await lease_is_valid(session, self._lease):
            raise ImportEndedError(ImportState.CANCELLED, None)
        return row


class _Progress:
    """Stores how far an import is, now and then. What is sent again after an interruption does not set it back."""

    def __init__(self, platform: Platform, lease: Lease, row: ImportRow, upload: UploadRow, done: int) -> None:
        self._platform = platform
        self._lease = lease
        self._import_id = row.id
        self._upload = upload
        self._done = done
        self._before = row.bytes_done
        self._reported = 0.0
        self._end_of_turn = asyncio.get_running_loop().time() + _TURN_SECONDS

    async def add(self, size: int) -> None:
        """Raises ImportEndedError if the import was cancelled, ApiError if its upload was."""
        self._done += size
        now = asyncio.get_running_loop().time()
        if now < self._reported + _REPORT_SECONDS:
            return
        self._reported = now
        done = min(max(self._before, self._done), self._upload.bytes_total)
        async with self._platform.database.write() as session:
            if not await queries.report(session, self._import_id, done, now=self._platform.now()):
                raise ImportEndedError(ImportState.CANCELLED, None)
            await progressed(session, self._lease)
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


async def upload_state(platform: Platform, known: ImportRow) -> UploadState | None:
    """Of the import's session; None if none was opened yet."""
    async with platform.database.read() as session:
        row = await queries.any_import(session, known.id)
        if row is None or row.upload_id is None:
            return None
        return UploadState((await uploads.find(session, caller_of(row), str(row.upload_id))).state)


def caller_of(row: ImportRow) -> Caller:
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
