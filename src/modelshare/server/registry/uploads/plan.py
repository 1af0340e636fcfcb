"""Plans the opening of an upload session from the project's present state. Changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import ConflictError, PermissionDeniedError
from modelshare.server.registry import queries as models
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.refused import printable
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.tables import DAMAGED, SELECTION, ModelRow, StagedFileRow, UploadRow, VersionRow
from modelshare.server.registry.uploads import queries
from modelshare.server.registry.uploads.rules import WantedFile, is_same_push, next_version, quota_refusal, selection_of
from modelshare.server.storage.stores import PLATFORM
from modelshare.wire.errors import ErrorCode
from modelshare.wire.models import ModelStatus
from modelshare.wire.uploads import VersionOpen


@dataclass(frozen=True, slots=True)
class UploadPlan:
    model: ModelRow | None
    """None: a new model."""
    storage: str
    """Where the bytes go."""
    resumes: UploadRow | None
    """The open session of the same push, to resume."""
    version: str
    replaces: VersionRow | None
    """A failed version to delete, since the new one gets its number."""
    reused: frozenset[str]
    """Digests of files that the project already stores."""
    candidates: tuple[str, ...]
    """Paths of files without a digest whose size equals that of a stored file: worth hashing."""
    ahead: Mapping[str, StagedFileRow]
    """By digest, files that were sent before this."""
    bytes_to_send: int


async def plan_opening(
    session: AsyncSession,
    project_id: str,
    model: ModelRow | None,
    name: str,
    quota: int,
    request: VersionOpen,
    files: Sequence[WantedFile],
) -> UploadPlan:
    """The plan for a locked model.

    Raises ConflictError if the version exists, PermissionDeniedError if the quota is exceeded.
    """
    resumes = await _same_push(session, model, request, files)
    storage = resumes.storage if resumes else await storages.current_id(session, project_id)
    known = await blobs.stored_blobs(session, project_id, storage, (file.sha256 for file in files if file.sha256))
    known = {sha256: blob for sha256, blob in known.items() if blob.proven_at != DAMAGED}
    reused = frozenset(file.sha256 for file in files if file.sha256 in known and known[file.sha256].size == file.size)
    sizes = await blobs.stored_sizes(session, project_id, storage, (file.size for file in files if not file.sha256))
    candidates = tuple(file.path for file in files if file.sha256 is None and file.size and file.size in sizes)
    if request.archive is not None:
        candidates = ()
    ahead = await blobs.staged_ahead(session, project_id, storage, name, (file.sha256 for file in files if file.sha256))
    here = reused | {row.sha256 for row in ahead.values()}
    to_send = 0 if resumes else sum(file.size for file in files if file.sha256 not in here)
    if to_send and storage == PLATFORM:
        stored = await blobs.stored_bytes(session, project_id)
        if refusal := quota_refusal(needed=to_send, stored=stored, quota=quota):
            raise PermissionDeniedError(refusal, code=ErrorCode.QUOTA_EXCEEDED)
    if resumes is not None:
        return UploadPlan(model, storage, resumes, resumes.version_name, None, reused, candidates, ahead, to_send)
    version, replaces = await number_of(session, model, request.version)
    return UploadPlan(model, storage, None, version, replaces, reused, candidates, ahead, to_send)


async def _same_push(
    session: AsyncSession, model: ModelRow | None, request: VersionOpen, files: Sequence[WantedFile]
) -> UploadRow | None:
    if model is None:
        return None
    archive = request.archive.filename if request.archive else None
    selections = {version.version: version.facts.get(SELECTION, {}) for version in model.versions}
    for row in await queries.open_uploads_of(session, model.id):
        known = {file.path: WantedFile(file.path, file.size, file.sha256) for file in row.files}
        same_version = request.version in {None, row.version_name}
        same_archive = row.archive == archive and selections.get(row.version_name) == selection_of(request)
        if same_version and same_archive and is_same_push(known, files):
            return row
    return None


async def number_of(session: AsyncSession, model: ModelRow | None, wanted: str | None) -> tuple[str, VersionRow | None]:
    """The number of a new version of a locked or new model, and the failed version that has it now.

    That was never ready, so it may be replaced. Raises ConflictError if the version exists or was deleted.
    """
    deleted = await models.deleted_versions(session, model.id) if model else set()
    sessions = await queries.open_uploads_of(session, model.id) if model else []
    open_uploads = {row.version_name: row.id for row in sessions}
    versions = {row.version: row for row in model.versions} if model else {}
    failed = {name: row for name, row in versions.items() if row.status == ModelStatus.FAILED and row.manifest is None}
    following = next_version((versions.keys() - failed.keys()) | deleted)
    version = wanted or following
    if version in deleted:
        raise ConflictError(
            f"The model {printable(model.name if model else '')} had a version {version}, which was deleted. "
            f"Version numbers cannot be used again: leave `version` out to push this as {following}.",
            param="version",
        )
    if version in versions and version not in failed:
        if versions[version].status == ModelStatus.UPLOADING:
            command = f" (`modelshare uploads cancel {open_uploads[version]}`)" if version in open_uploads else ""
            remedy = f"Cancel its open upload{command}, or push as another version"
        else:
            remedy = f"Leave `version` out to push it as {following}"
        raise ConflictError(
            f"The model {printable(model.name if model else '')} already has a version {version}. {remedy}.",
            param="version",
        )
    return version, failed.get(version)
