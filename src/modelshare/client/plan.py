"""Plans a push: the request that opens it, the files worth hashing, and the missing parts. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelshare.client.source import LocalFile, PushSource
from modelshare.wire.uploads import (
    BATCH_BYTES,
    BATCH_FILES,
    BATCH_HEAD,
    ArchiveEntry,
    FileEntry,
    Upload,
    UploadFile,
    UploadOpen,
)

SMALL = 64 << 20
"""Bytes. Up to this size a file is a single part, whose checksum is also the file's, so hashing it early costs
nothing."""

TINY = 1 << 20
"""Bytes. Files up to this size are sent in batches."""
FILES_AT_ONCE = BATCH_FILES // 2
"""Enough to make the overhead of a request negligible, but few enough to send several requests in parallel."""


@dataclass(frozen=True, slots=True)
class Part:
    """Part `k` of file `n`, both counted from 0."""

    n: int
    k: int
    offset: int
    size: int


def opening(
    source: PushSource,
    name: str,
    version: str | None,
    *,
    make_latest: bool | None,
    digests: Mapping[str, str],
    version_notes: str | None = None,
    file: str | None = None,
) -> UploadOpen:
    """The request that opens a session. `digests`: the SHA-256 digests known so far, by path."""
    spec = {"version": version, "make_latest": make_latest, "version_notes": version_notes, "file": file}
    said: dict[str, Any] = {field: value for field, value in spec.items() if value is not None}
    if source.is_archive:
        [packed] = source.files
        archive = ArchiveEntry(filename=packed.path, size=packed.size)
        request = UploadOpen(name=name, archive=archive, **said)
        request = request.model_copy(update={"exclude": source.exclude} if source.exclude else {})
    else:
        files = [FileEntry(path=each.path, size=each.size, sha256=digests.get(each.path)) for each in source.files]
        request = UploadOpen(name=name, files=files, **said)
    return request.model_copy(update={"include": source.include} if source.include else {})


def worth_hashing(upload: Upload, source: PushSource, digests: Mapping[str, str]) -> list[LocalFile]:
    """Files that the project may already store, judging by size, except those that an earlier push began to send."""
    begun = {file.path for file in upload.files if file.parts_done}
    candidates = set(upload.hash_candidates) - digests.keys() - begun
    return [file for file in source.files if file.path in candidates]


def parts_to_compare(upload: Upload) -> Iterator[tuple[str, Part, str]]:
    """Parts sent by an earlier push, each with its file's path and the SHA-256 that the server has."""
    for file in upload.files:
        for k, digest in sorted(file.parts_sha256.items()):
            yield file.path, _part(upload, file, k), digest


def missing_parts(upload: Upload, changed: Collection[tuple[int, int]] = ()) -> Iterator[tuple[str, Part]]:
    """The parts to send, each with its file's path, in on-disk order.

    `changed`: (file, part) pairs that the server has but that no longer match the file.
    """
    for file in upload.files:
        done = set(file.parts_done)
        for k in range(0 if file.reused else file.parts):
            if k not in done or (file.n, k) in changed:
                yield file.path, _part(upload, file, k)


def batches(parts: Iterable[tuple[str, Part]]) -> Iterator[list[tuple[str, Part]]]:
    """Groups single-part files into batch requests, within the limits of one request."""
    batch: list[tuple[str, Part]] = []
    size = 0
    for path, part in parts:
        length = BATCH_HEAD.size + part.size
        if batch and (len(batch) == FILES_AT_ONCE or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((path, part))
        size += length
    if batch:
        yield batch


def all_parts(upload: Upload, file: UploadFile) -> Iterator[Part]:
    return (_part(upload, file, k) for k in range(file.parts))


def _part(upload: Upload, file: UploadFile, k: int) -> Part:
    offset = k * upload.part_size
    return Part(file.n, k, offset, min(upload.part_size, file.size - offset))
