"""Registers a model that lies in its owner's bucket: the files are listed now, and a job reads them once."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import notify
from modelshare.server.http import Caller
from modelshare.server.registry import service as registry
from modelshare.server.registry import versions
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.in_place import queries
from modelshare.server.registry.in_place.source import FoundFile, Source, check, find_files, source_of
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.storages.credentials import TOPIC, forget_unused
from modelshare.server.registry.storages.stores import RegistryPlatform, require_s3
from modelshare.server.registry.tables import LEFT_OUT, ModelRow, RegisteredFileRow, VersionRow
from modelshare.server.registry.uploads import service as uploads
from modelshare.server.registry.uploads.plan import number_of
from modelshare.server.storage.pins import Pin
from modelshare.wire.models import ModelStatus
from modelshare.wire.registering import ModelRegister, Registered

_UNDER_WAY = (ModelStatus.PROCESSING, ModelStatus.READY)


async def register(platform: RegistryPlatform, caller: Caller, spec: ModelRegister) -> tuple[Registered, bool]:
    """A new version of the files that lie there now; or the one that was registered of the same files, and False."""
    require_s3()
    async with platform.database.read() as session:
        source = await source_of(session, platform, caller, spec)
    files, left_out = await find_files(platform, source, spec)
    checks = await check(platform, source, files)
    async with platform.database.write() as session:
        await blobs.lock_project(session, caller.project)
        model = await uploads.lock_model_named(session, caller, spec.name)
        await _store(session, source, checks, now=platform.now())
        version = await _same(session, model, source, files, spec)
        is_new = version is None
        if version is None:
            model, version = await _add(session, platform, caller, spec, model, left_out)
            storage = source.row.id.hex
            session.add_all(
                RegisteredFileRow(
                    version_id=version.id, path=file.path, size=file.size, etag=file.etag, storage=storage
                )
                for file in files
            )
            audit: dict[str, Any] = {"version": version.version, "source": spec.source, "files": len(files)}
            registry.record(session, "model.register", model, caller.actor, platform.now(), **audit)
        await forget_unused(session, caller.project)
        latest_note = await uploads.latest_note(session, version.model_id, version.id)
    registered = Registered(
        model=str(version.model_id),
        name=spec.name,
        version=version.version,
        status=ModelStatus(version.status),
        source=spec.source,
        files=len(files),
        bytes_total=sum(file.size for file in files),
        left_out=left_out,
        latest_note=latest_note,
    )
    return registered, is_new


async def _store(session: AsyncSession, source: Source, checks: list[dict[str, Any]], *, now: int) -> None:
    row = source.row
    known = await storages.registered_at(session, row.project_id, row.url, row.endpoint)
    if row.credentials_of is not None and await storages.storage(session, row.credentials_of) is None:
        row.credentials_of = None
    if known is None:
        row.checked_at, row.checks = now, checks
        session.add(row)
        await session.flush()
        return
    # Keys are sealed for one row: another request may just have registered the same place.
    if source.is_changed and known.id == row.id:
        for name in ("region", "addressing", "credentials", "key_hint", "role_arn", "direct", "credentials_of"):
            setattr(known, name, getattr(row, name))
        known.revision += 1
        notify(session, TOPIC, known.id.hex)
    known.checked_at, known.checks = now, checks
    row.id = known.id


async def _same(
    session: AsyncSession, model: ModelRow | None, source: Source, files: Sequence[FoundFile], spec: ModelRegister
) -> VersionRow | None:
    """The version of these very objects, unless another number is wanted."""
    wanted = {(file.path, file.size, file.etag) for file in files}
    for version in reversed(model.versions if model is not None else ()):
        if version.status not in _UNDER_WAY or spec.version not in {None, version.version}:
            continue
        unread = await queries.unread(session, version.id)
        read = await queries.read(session, version.id)
        storage = {each.storage for each in unread} | {each.storage for each in read}
        there = {(each.path, each.size, each.etag) for each in unread}
        there |= {(each.path, each.size, Pin.parse(each.pin or "").etag) for each in read}
        if storage == {source.row.id.hex} and there == wanted:
            return version
        if version.is_latest:
            break
    return None


async def _add(
    session: AsyncSession,
    platform: RegistryPlatform,
    caller: Caller,
    spec: ModelRegister,
    model: ModelRow | None,
    left_out: str | None,
) -> tuple[ModelRow, VersionRow]:
    now = platform.now()
    number, replaces = await number_of(session, model, spec.version)
    model = model or ModelRow(project_id=caller.project, name=spec.name, tags=[], created_at=now)
    version = VersionRow(
        version=number,
        status=ModelStatus.PROCESSING,
        make_latest=spec.make_latest,
        facts={LEFT_OUT: left_out} if left_out else {},
        notes=spec.version_notes or None,
        file=spec.file,
        created_at=now,
    )
    await versions.add(session, model, version, replaces, now=now)
    await versions.request_processing(session, version.id, now=now)
    return model, version
