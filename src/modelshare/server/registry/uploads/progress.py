"""The progress of a session. Only the storage knows which parts are stored."""

from collections.abc import Sequence

from modelshare.server.http import Platform
from modelshare.server.registry.blobs.staging import multipart_of
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.storage.base import BlobStore, Multipart, Part
from modelshare.server.storage.stores import PLATFORM
from modelshare.server.storage_errors import MultipartNotFoundError
from modelshare.wire.uploads import Upload, UploadFile, UploadState

_MAX_REQUESTS = 16
"""Concurrent requests to the storage."""


async def view(platform: Platform, row: UploadRow, candidates: Sequence[str] = ()) -> Upload:
    """The session as its owner sees it. Reads from the storage: do not call it in a transaction."""
    files, direct = await _looked_at(platform, row)
    done = sum(_bytes_done(file, row.part_size) for file in files)
    return Upload(
        id=str(row.id),
        model=str(row.model_id),
        name=row.model_name,
        version=row.version_name,
        state=UploadState(row.state),
        part_size=row.part_size,
        direct=direct,
        files=files,
        bytes_total=row.bytes_total,
        bytes_done=row.bytes_total if row.state == UploadState.COMPLETED else done,
        hash_candidates=list(candidates),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


async def _looked_at(platform: Platform, row: UploadRow) -> tuple[list[UploadFile], bool]:
    """The files, and whether parts go straight to the bucket. A session that is over needs no storage to be there."""
    if row.state == UploadState.OPEN:
        store = await platform.stores.get(row.storage)
        return await file_views(store, row), store.direct
    direct = row.storage == PLATFORM and platform.store.direct
    return await file_views(platform.store, row), direct


async def file_views(store: BlobStore, row: UploadRow) -> list[UploadFile]:
    """The session's files, each with its stored parts."""
    is_completed = row.state == UploadState.COMPLETED
    opened = [
        multipart_of(row, file) for file in row.files if file.multipart_id and not file.reused and not is_completed
    ]
    if store.direct:
        listed = await map_concurrently(lambda whole: _parts(store, whole), opened, limit=_MAX_REQUESTS)
    else:
        listed = await store.list_parts_of(opened) if opened else []
    stored = {whole.key: parts for whole, parts in zip(opened, listed, strict=True)}

    def view_file(file: UploadFileRow) -> UploadFile:
        whole = multipart_of(row, file)
        is_complete = file.reused or is_completed
        parts = stored.get(file.key, [])
        return UploadFile(
            n=file.n,
            path=file.path,
            size=file.size,
            parts=whole.count,
            parts_done=list(range(whole.count)) if is_complete else [part.number for part in parts],
            parts_sha256={} if store.direct else {part.number: part.etag for part in parts if part.etag},
            reused=file.reused,
        )

    return [view_file(file) for file in row.files]


async def _parts(store: BlobStore, whole: Multipart) -> list[Part]:
    """The stored parts; none for an upload that has ended."""
    try:
        return await store.list_parts(whole)
    except MultipartNotFoundError:
        return []


def _bytes_done(file: UploadFile, part_size: int) -> int:
    return sum(min(part_size, file.size - k * part_size) for k in file.parts_done)
