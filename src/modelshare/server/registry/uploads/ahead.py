"""Files that are sent before anybody says which version they are for, as clients of other forms do.

Each is known by the SHA-256 that the client claims. The upload that is opened with that digest takes it over, with the
parts that are there, and checks it as any other file. What no upload takes over in time is deleted.
"""

import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import timedelta
from typing import Final

from modelshare.server.accounts.service import quota_of
from modelshare.server.errors import ConflictError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller, Platform
from modelshare.server.ids import new_id
from modelshare.server.registry.blobs import disposal, staging
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.tables import StagedFileRow
from modelshare.server.registry.uploads.rules import quota_refusal
from modelshare.server.storage.base import Inflow, Multipart, SignedPut, fit_part_size
from modelshare.wire.errors import ErrorCode

URL_SECONDS: Final = int(timedelta(hours=12).total_seconds())
"""How long the URLs of parts are valid: a client gets them all at once, and sends the parts one after the other."""
_AT_ONCE: Final = 16
_MAX_EXPIRED: Final = 100


async def stored(platform: Platform, caller: Caller, sizes: Mapping[str, int]) -> set[str]:
    """Those of the digests whose files the caller's project has already: stored, or sent ahead completely."""
    async with platform.database.read() as session:
        known = await blobs.stored_blobs(session, caller.project, sizes)
        ahead = await blobs.staged_ahead(session, caller.project, sizes)
    found = {sha256 for sha256, row in known.items() if row.size == sizes[sha256]}
    waiting = [row for sha256, row in ahead.items() if sha256 not in found and row.size == sizes[sha256]]
    complete = await map_concurrently(lambda row: is_complete(platform, row), waiting, limit=_AT_ONCE)
    return found | {row.sha256 for row, there in zip(waiting, complete, strict=True) if there}


async def sizes(platform: Platform, caller: Caller, digests: Collection[str]) -> dict[str, int]:
    """Of those of the digests whose files the caller's project has, or is being sent."""
    async with platform.database.read() as session:
        known = await blobs.stored_blobs(session, caller.project, digests)
        waiting = await blobs.staged_ahead(session, caller.project, digests)
    return {row.sha256: row.size for row in waiting.values()} | {row.sha256: row.size for row in known.values()}


async def begin(platform: Platform, caller: Caller, sizes: Mapping[str, int]) -> dict[str, StagedFileRow]:
    """A place for each of these files, by digest: the one that it has, or a new one.

    Raises PermissionDeniedError where the quota is too small, StorageFullError.
    """
    async with platform.database.read() as session:
        there = await blobs.staged_ahead(session, caller.project, sizes)
        project = await blobs.project(session, caller.project)
        stored_bytes = await blobs.stored_bytes(session, caller.project)
    new = {sha256: size for sha256, size in sizes.items() if sha256 not in there}
    needed = sum(new.values())
    if refusal := quota_refusal(needed=needed, stored=stored_bytes, quota=quota_of(project, platform.settings)):
        raise PermissionDeniedError(refusal, code=ErrorCode.QUOTA_EXCEEDED)
    await platform.store.require_space(needed)

    async def open_place(sha256: str) -> StagedFileRow:
        place = new_id()
        part_size = fit_part_size(new[sha256], platform.settings.uploads_part_size)
        opened = await platform.store.begin(staging.file_key(caller.project, place, 0), new[sha256], part_size)
        return StagedFileRow(
            project_id=caller.project,
            sha256=sha256,
            id=place,
            size=new[sha256],
            key=opened.key,
            multipart_id=opened.id,
            part_size=part_size,
            expires_at=platform.now() + platform.settings.uploads_expire_seconds,
        )

    opened = await map_concurrently(open_place, list(new), limit=_AT_ONCE)
    needless = []
    async with platform.database.write() as session:
        await blobs.lock_project(session, caller.project)
        there = await blobs.staged_ahead(session, caller.project, sizes)
        for row in there.values():
            row.expires_at = platform.now() + platform.settings.uploads_expire_seconds
        for row in opened:
            if row.sha256 in there:  # another request opened it at the same time
                needless.append(_folder(row))
                continue
            session.add(row)
            there[row.sha256] = row
        if needless:
            await disposal.discard(session, caller.project, needless, now=platform.now())
    return there


async def quota(platform: Platform, caller: Caller) -> int:
    """Bytes that the caller's project may store."""
    async with platform.database.read() as session:
        return quota_of(await blobs.project(session, caller.project), platform.settings)


async def find(platform: Platform, staged_id: uuid.UUID) -> StagedFileRow:
    """By the id that a signed URL names. 404 where it has expired, or an upload has taken it over."""
    async with platform.database.read() as session:
        row = await blobs.staged_by_id(session, staged_id)
    if row is None:
        raise NotFoundError("This file is not expected any more. Start the upload again.")
    return row


def part_url(platform: Platform, row: StagedFileRow, number: int) -> SignedPut | None:
    """Where part `number` is sent in the bucket; None where parts come through this server."""
    if not platform.store.direct:
        return None
    return platform.store.part_url(multipart_of(row), number, expires_at=platform.now() + URL_SECONDS)


async def receive(platform: Platform, row: StagedFileRow, number: int, chunks: AsyncIterator[bytes] | Inflow) -> None:
    """Stores one part that comes through this server."""
    if platform.store.direct:
        raise ConflictError("Parts of this file are sent to the bucket.")
    await platform.store.write_part(multipart_of(row), number, chunks, None)


async def write(platform: Platform, row: StagedFileRow, content: AsyncIterator[bytes]) -> None:
    """Stores all of a file that the server makes itself. Holds a part in memory."""
    whole = multipart_of(row)
    number, held = 0, bytearray()
    async for chunk in content:
        held += chunk
        while len(held) >= row.part_size:
            await put_part(platform, whole, number, bytes(held[: row.part_size]))
            del held[: row.part_size]
            number += 1
    if held:
        await put_part(platform, whole, number, bytes(held))


async def is_complete(platform: Platform, row: StagedFileRow) -> bool:
    return len(await platform.store.list_parts(multipart_of(row))) == multipart_of(row).count


async def discard(platform: Platform, rows: Iterable[StagedFileRow]) -> None:
    """Deletes what was sent so far, so that it can be sent again."""
    async with platform.database.write() as session:
        for row in rows:
            if (found := await blobs.staged_by_id(session, row.id)) is not None:
                await session.delete(found)
                await disposal.discard(session, row.project_id, [_folder(row)], now=platform.now())


async def end_expired(platform: Platform) -> None:
    """Deletes what no upload has taken over in time. Run it every minute or so."""
    while True:
        async with platform.database.write() as session:
            rows = await blobs.expired_staged(session, platform.now(), _MAX_EXPIRED)
            for row in rows:
                await session.delete(row)
                await disposal.discard(session, row.project_id, [_folder(row)], now=platform.now())
        if len(rows) < _MAX_EXPIRED:
            return


def multipart_of(row: StagedFileRow) -> Multipart:
    return Multipart(row.key, row.multipart_id, row.size, row.part_size)


def _folder(row: StagedFileRow) -> str:
    return f"{row.key.rpartition('/')[0]}/"


async def put_part(platform: Platform, whole: Multipart, number: int, data: bytes) -> None:
    """Stores a part that the server has."""

    async def once() -> AsyncIterator[bytes]:
        yield data

    store = platform.store
    await (store.put_part(whole, number, data) if store.direct else store.write_part(whole, number, once(), None))
