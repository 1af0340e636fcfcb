"""Files that are sent ahead, before the upload session of their version is opened, as Hugging Face clients do.

They are identified by the SHA-256 that the client claims. A session with that digest takes them over with their stored
parts, and verifies them like any other file. Files that no session takes over in time are deleted.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final

from modelshare.server.accounts.service import quota_of
from modelshare.server.errors import ConflictError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import new_id
from modelshare.server.registry.blobs import disposal, staging
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.tables import DAMAGED, StagedFileRow, key_of
from modelshare.server.registry.uploads.rules import quota_refusal
from modelshare.server.storage.base import BlobStore, Inflow, Multipart, RangeReader, fit_part_size
from modelshare.server.storage.stores import PLATFORM
from modelshare.server.storage_errors import MultipartNotFoundError
from modelshare.wire.errors import ErrorCode

URL_SECONDS: Final = int(timedelta(hours=12).total_seconds())
"""Validity of the URLs of parts: a client gets all of them at once and sends the parts one after the other."""
_AT_ONCE: Final = 16
_MAX_EXPIRED: Final = 100
_STEP: Final = 8 << 20
MAX_BROUGHT: Final = 256 << 20
"""Bytes that one request copies from another storage; a move, which is a job, copies any number."""


async def stored(
    platform: Platform, caller: Caller, name: str, sizes: Mapping[str, int], *, anywhere: bool = False
) -> set[str]:
    """The digests of files that the project's storage has: stored, or sent ahead completely for the model `name`.

    With `anywhere`, also those that are stored in another storage of the project; `bring` copies them.
    """
    async with platform.database.read() as session:
        storage = await storages.current_id(session, caller.project)
        if anywhere:
            known = await blobs.stored_anywhere(session, caller.project, sizes)
        else:
            known = await blobs.stored_blobs(session, caller.project, storage, sizes)
        ahead = await blobs.staged_ahead(session, caller.project, storage, name, sizes)
    found = {sha256 for sha256, row in known.items() if row.size == sizes[sha256] and row.proven_at != DAMAGED}
    waiting = [row for sha256, row in ahead.items() if sha256 not in found and row.size == sizes[sha256]]
    complete = await map_concurrently(lambda row: _is_complete_or_lost(platform, row), waiting, limit=_AT_ONCE)
    await discard(platform, [row for row, state in zip(waiting, complete, strict=True) if state is None])
    return found | {row.sha256 for row, state in zip(waiting, complete, strict=True) if state}


async def _is_complete_or_lost(platform: Platform, row: StagedFileRow) -> bool | None:
    """None if the bucket has deleted the unfinished upload, so that it has to start again."""
    try:
        return await is_complete(platform, row)
    except MultipartNotFoundError:
        return None


async def sizes(platform: Platform, caller: Caller, name: str, digests: Collection[str]) -> dict[str, int]:
    """The sizes of the files that the project stores or is receiving, by digest."""
    async with platform.database.read() as session:
        storage = await storages.current_id(session, caller.project)
        known = await blobs.stored_anywhere(session, caller.project, digests)
        waiting = await blobs.staged_ahead(session, caller.project, storage, name, digests)
    return {row.sha256: row.size for row in waiting.values()} | {row.sha256: row.size for row in known.values()}


async def begin(platform: Platform, caller: Caller, name: str, sizes: Mapping[str, int]) -> dict[str, StagedFileRow]:
    """The upload of each of these files of the model `name`, by digest; opens those that do not exist yet.

    Raises PermissionDeniedError if the quota is exceeded, StorageFullError.
    """
    async with platform.database.read() as session:
        storage = await storages.current_id(session, caller.project)
        there = await blobs.staged_ahead(session, caller.project, storage, name, sizes)
        project = await blobs.project(session, caller.project)
        stored_bytes = await blobs.stored_bytes(session, caller.project)
    new = {sha256: size for sha256, size in sizes.items() if sha256 not in there}
    needed, quota = sum(new.values()), quota_of(project, platform.settings)
    refusal = quota_refusal(needed=needed, stored=stored_bytes, quota=quota) if storage == PLATFORM else None
    if refusal is not None:
        raise PermissionDeniedError(refusal, code=ErrorCode.QUOTA_EXCEEDED)
    store = await platform.stores.get(storage)
    await store.require_space(needed)

    async def open_place(sha256: str) -> StagedFileRow:
        place = new_id()
        part_size = fit_part_size(new[sha256], platform.settings.uploads_part_size)
        opened = await store.begin(staging.file_key(caller.project, place, 0), new[sha256], part_size)
        return StagedFileRow(
            project_id=caller.project,
            sha256=sha256,
            storage=storage,
            name_key=key_of(name),
            id=place,
            size=new[sha256],
            key=opened.key,
            multipart_id=opened.id,
            part_size=part_size,
            expires_at=platform.now() + platform.settings.uploads_expire_seconds,
        )

    opened = await map_concurrently(open_place, list(new), limit=_AT_ONCE)
    async with platform.database.write() as session:
        await blobs.lock_project(session, caller.project)
        there = await blobs.staged_ahead(session, caller.project, storage, name, sizes)
        for row in there.values():
            row.expires_at = platform.now() + platform.settings.uploads_expire_seconds
        for row in opened:
            if row.sha256 in there:  # another request opened it at the same time
                await disposal.discard_sent_ahead(session, row, now=platform.now())
                continue
            session.add(row)
            there[row.sha256] = row
    return there


async def kept_by_owner(platform: Platform, caller: Caller, digests: Collection[str]) -> set[str]:
    """Those of the files that the project has only where they were registered or are held."""
    async with platform.database.read() as session:
        if not (read_only := await storages.read_only(session, caller.project)):
            return set()
        found = await blobs.stored_anywhere(session, caller.project, digests, rather_not=read_only)
    return {sha256 for sha256, row in found.items() if row.storage in read_only}


async def bring(platform: Platform, caller: Caller, name: str, sizes: Mapping[str, int]) -> None:
    """Copies files that the project stores only elsewhere into its current storage.

    Raises ConflictError if that is too much for one request, or if files lie where they were registered or are held:
    the owner did not ask for a copy of those.
    """
    missing = sizes.keys() - await stored(platform, caller, name, sizes)
    if await kept_by_owner(platform, caller, missing):
        raise ConflictError(
            f"The other files of {name} stay where their owner keeps them, and are not copied. Change the files there "
            f"and run `modelshare register` or `modelshare hold` again, or move the model first: `modelshare storage "
            f"move {name} --to platform`."
        )
    async with platform.database.read() as session:
        found = await blobs.stored_anywhere(session, caller.project, missing)
    elsewhere = {sha256: row for sha256, row in found.items() if row.size == sizes[sha256]}
    wanted = {sha256: row.size for sha256, row in elsewhere.items()}
    if sum(wanted.values()) > MAX_BROUGHT:
        raise ConflictError(
            f"The other files of {name}, {sum(wanted.values()):,} bytes, are in another storage. Move the model first: "
            f"`modelshare storage move {name} --to own` (or `platform`). Then push again."
        )
    for sha256, place in (await begin(platform, caller, name, wanted)).items() if wanted else ():
        store = await platform.stores.get(elsewhere[sha256].storage)
        reader = await asyncio.to_thread(store.reader, elsewhere[sha256].key)
        await write(platform, place, _content(reader))


async def _content(reader: RangeReader) -> AsyncIterator[bytes]:
    for offset in range(0, reader.size, _STEP):
        yield await asyncio.to_thread(reader.read_at, offset, _STEP)


async def destination(platform: Platform, caller: Caller) -> tuple[str, int | None]:
    """The project's current storage, and its quota there in bytes; None if it has none."""
    async with platform.database.read() as session:
        storage = await storages.current_id(session, caller.project)
        project = await blobs.project(session, caller.project)
    return storage, quota_of(project, platform.settings) if storage == PLATFORM else None


async def find(platform: Platform, staged_id: uuid.UUID) -> StagedFileRow:
    """By the ID in a signed URL. 404 if it has expired or a session has taken it over."""
    async with platform.database.read() as session:
        row = await blobs.staged_by_id(session, staged_id)
    if row is None:
        raise NotFoundError("This file is not expected any more. Start the upload again.")
    return row


async def part_urls(platform: Platform, row: StagedFileRow) -> list[str] | None:
    """Presigned URLs of all parts; None if parts are sent to this server."""
    store = await platform.stores.get(row.storage)
    if not store.direct:
        return None
    whole, expires_at = multipart_of(row), platform.now() + URL_SECONDS
    sign = partial(store.part_url, whole, expires_at=expires_at)
    return await asyncio.to_thread(lambda: [sign(number).url for number in range(whole.count)])


async def receive(platform: Platform, row: StagedFileRow, number: int, chunks: AsyncIterator[bytes] | Inflow) -> None:
    """Stores one part that is sent to this server."""
    store = await platform.stores.get(row.storage)
    if store.direct:
        raise ConflictError("Parts of this file are sent to the bucket.")
    await store.write_part(multipart_of(row), number, chunks, None)


async def write(platform: Platform, row: StagedFileRow, content: AsyncIterator[bytes]) -> None:
    """Stores a whole file that the server produces. Holds one part in memory."""
    store, whole = await platform.stores.get(row.storage), multipart_of(row)
    number, held = 0, bytearray()
    async for chunk in content:
        held += chunk
        while len(held) >= row.part_size:
            await put_part(store, whole, number, bytes(held[: row.part_size]))
            del held[: row.part_size]
            number += 1
    if held:
        await put_part(store, whole, number, bytes(held))


async def write_all(platform: Platform, files: Sequence[tuple[StagedFileRow, bytes]]) -> None:
    """Stores files that are in memory and whose digests are verified. All are in the same storage."""

    async def one(file: tuple[StagedFileRow, bytes]) -> None:
        row, content = file

        async def once() -> AsyncIterator[bytes]:
            yield content

        await write(platform, row, once())

    if not files:
        return
    store = await platform.stores.get(files[0][0].storage)
    if store.direct or any(len(content) > row.part_size for row, content in files):
        await map_concurrently(one, files, limit=_AT_ONCE)
    else:
        await store.write_files([(multipart_of(row), memoryview(content), row.sha256) for row, content in files])


async def is_complete(platform: Platform, row: StagedFileRow) -> bool:
    store = await platform.stores.get(row.storage)
    return len(await store.list_parts(multipart_of(row))) == multipart_of(row).count


async def discard(platform: Platform, rows: Iterable[StagedFileRow]) -> None:
    """Deletes the stored parts, so that the files can be sent again."""
    async with platform.database.write() as session:
        for row in rows:
            if (found := await blobs.staged_by_id(session, row.id)) is not None:
                await session.delete(found)
                await disposal.discard_sent_ahead(session, row, now=platform.now())


async def end_expired(platform: Platform) -> None:
    """Deletes files that no session has taken over in time. Run it every minute or so."""
    while True:
        async with platform.database.write() as session:
            rows = await blobs.expired_staged(session, platform.now(), _MAX_EXPIRED)
            for row in rows:
                await session.delete(row)
                await disposal.discard_sent_ahead(session, row, now=platform.now())
        if len(rows) < _MAX_EXPIRED:
            return


def multipart_of(row: StagedFileRow) -> Multipart:
    return Multipart(row.key, row.multipart_id, row.size, row.part_size)


async def put_part(store: BlobStore, whole: Multipart, number: int, data: bytes) -> None:
    """Stores a part that is in memory."""

    async def once() -> AsyncIterator[bytes]:
        yield data

    await (store.put_part(whole, number, data) if store.direct else store.write_part(whole, number, once(), None))
