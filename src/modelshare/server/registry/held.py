"""Versions whose files stay on their owner's machine: registered by digests, and failed when a file changes there."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import ConflictError, InvalidRequestError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import new_id
from modelshare.server.jobs import run_now
from modelshare.server.registry import service as registry
from modelshare.server.registry import versions
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.refused import printable
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.storages.held import key_of
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.registry.tables import BlobRow, FileRow, ModelRow, VersionRow
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.registry.uploads.plan import number_of
from modelshare.server.registry.uploads.rules import WantedFile
from modelshare.wire.held import HeldChange, HeldOpen, HeldVersion
from modelshare.wire.models import ModelStatus

Files = Sequence[WantedFile]
_FALLIBLE: Final = frozenset({ModelStatus.READY, ModelStatus.PROCESSING})


async def register(
    session: AsyncSession,
    platform: Platform,
    caller: Caller,
    holder_id: uuid.UUID,
    request: HeldOpen,
    files: Files,
) -> HeldVersion:
    """Makes a version of these files, which the holder has, and has them checked. `files` are `checked_files`.

    The same files again give the same version; one that had failed is then read again completely.
    """
    await blobs.lock_project(session, caller.project)
    model = await uploads.lock_model_named(session, caller, request.name)
    storage = await _storage(session, platform, caller.project, holder_id)
    digests = {file.path: file.sha256 or "" for file in files}
    now = platform.now()
    if model is not None and (known := await _same(session, model, storage, request.version, digests)) is not None:
        if known.status == ModelStatus.FAILED:
            await versions.check_again(session, model, known, caller.actor, now=now)
        return _view(model, known)
    limit = platform.settings.uploads_open_per_project
    if len(await storages.processing_in(session, storage)) >= limit:
        raise ConflictError(f"{limit} versions on this machine are being checked, the maximum. Try again later.")
    model, version = await _create(session, caller, model, request, now)
    await _add_files(session, caller.project, storage, version, files, now)
    await versions.request_processing(session, version.id, now=now)
    registry.record(session, "model.hold", model, caller.actor, now, version=version.version, agent=str(holder_id))
    return _view(model, version)


async def resume(session: AsyncSession, project_id: str, holder_id: uuid.UUID, *, now: int) -> None:
    """Continues to check what this holder has. Call it when it is connected."""
    storage = await storages.held_by(session, project_id, holder_id)
    if storage is not None and (waiting := await storages.processing_in(session, storage)):
        await run_now(session, [versions.PROCESS, versions.REVALIDATE], waiting, now=now)


async def changed(
    session: AsyncSession, project_id: str, holder_id: uuid.UUID, files: Sequence[HeldChange], *, now: int
) -> list[str]:
    """Fails every version that has one of these files of the holder's; returns their numbers."""
    missing = {file.sha256: file.is_missing for file in files}
    storage = await storages.held_by(session, project_id, holder_id)
    if storage is None:
        return []
    failed = []
    for model_id in await storages.models_with(session, storage, missing):
        model = await registry.find_any(session, model_id, lock=True)
        for version in model.versions if model is not None else ():
            digests = await storages.digests_in(session, storage, version.id)
            found = next((path for path, sha256 in sorted(digests.items()) if sha256 in missing), None)
            if model is None or found is None or version.status not in _FALLIBLE:
                continue
            what = "is no longer on the machine that holds it" if missing[digests[found]] else "was changed"
            await versions.fail(session, model, version, versions.reason_of_change(found, what), now=now)
            failed.append(version.version)
    return failed


async def _storage(session: AsyncSession, platform: Platform, project_id: str, holder_id: uuid.UUID) -> StorageRow:
    row = await storages.held_by(session, project_id, holder_id)
    if row is None:
        row = StorageRow(
            id=new_id(),
            project_id=project_id,
            kind="held",
            url=f"held:{holder_id}",
            holder_id=holder_id,
            direct=False,
            writable=False,
            created_at=platform.now(),
        )
        session.add(row)
        await session.flush()
    return row


async def holders(session: AsyncSession, storages_: Collection[str]) -> dict[str, uuid.UUID]:
    """The agents that hold what is in these storages, by storage."""
    return await storages.holders(session, storages_)


async def held_versions(session: AsyncSession, model: ModelRow) -> set[str]:
    """Numbers of the versions whose files stay on a machine of their owner."""
    return await storages.held_versions(session, model.id, model.project_id)


async def _same(
    session: AsyncSession, model: ModelRow, storage: StorageRow, wanted: str | None, digests: Mapping[str, str]
) -> VersionRow | None:
    """The newest version with exactly these files of this holder; with `wanted`, of that number."""
    for version in reversed(model.versions):
        if wanted not in {None, version.version}:
            continue
        if await storages.digests_in(session, storage, version.id) == digests:
            return version
    return None


async def _create(
    session: AsyncSession, caller: Caller, model: ModelRow | None, request: HeldOpen, now: int
) -> tuple[ModelRow, VersionRow]:
    number, replaces = await number_of(session, model, request.version)
    model = model or ModelRow(project_id=caller.project, name=request.name, tags=[], created_at=now)
    version = VersionRow(
        version=number,
        status=ModelStatus.PROCESSING,
        make_latest=request.make_latest,
        notes=request.version_notes or None,
        file=request.file,
        digests="holder",
        created_at=now,
    )
    await versions.add(session, model, version, replaces, now=now)
    return model, version


async def _add_files(
    session: AsyncSession,
    project_id: str,
    storage: StorageRow,
    version: VersionRow,
    files: Files,
    now: int,
) -> None:
    known = await blobs.stored_blobs(session, project_id, storage.id.hex, (file.sha256 or "" for file in files))
    place = {"project_id": project_id, "storage": storage.id.hex}
    for file in files:
        sha256 = file.sha256 or ""
        if sha256 not in known:
            key = key_of(sha256, file.size)
            known[sha256] = BlobRow(**place, sha256=sha256, size=file.size, key=key, created_at=now)
            session.add(known[sha256])
        elif known[sha256].size != file.size:
            raise InvalidRequestError(
                f"{printable(file.path)} has the digest of a file of another size.", param="files"
            )
    await session.flush()
    session.add_all(
        FileRow(version_id=version.id, path=file.path, sha256=file.sha256 or "", size=file.size, **place)
        for file in files
    )
    await session.flush()


def _view(model: ModelRow, version: VersionRow) -> HeldVersion:
    return HeldVersion(
        model=str(model.id), name=model.name, version=version.version, status=ModelStatus(version.status)
    )
