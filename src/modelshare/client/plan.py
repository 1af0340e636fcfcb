"""Which session a push goes on with, which files are worth hashing, and which parts are missing. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelshare.client.source import LocalFile, Source
from modelshare.wire.uploads import ArchiveEntry, FileEntry, Upload, UploadFile, UploadOpen, UploadState

SMALL = 64 << 20
"""Bytes. A file up to this size is one part, whose checksum is the file's: hashing it at once costs nothing twice."""


@dataclass(frozen=True, slots=True)
class Part:
    n: int
    k: int
    offset: int
    size: int


def opening(
    source: Source, name: str, version: str | None, *, make_latest: bool, digests: Mapping[str, str]
) -> UploadOpen:
    """The request that opens a session; `digests` holds the SHA-256 known so far, by path."""
    if source.is_archive:
        [file] = source.files
        archive = ArchiveEntry(filename=file.path, size=file.size)
        return UploadOpen(name=name, version=version, make_latest=make_latest, archive=archive)
    files = [FileEntry(path=file.path, size=file.size, sha256=digests.get(file.path)) for file in source.files]
    return UploadOpen(name=name, version=version, make_latest=make_latest, files=files)


def find_session(uploads: Iterable[Upload], source: Source, name: str, version: str | None) -> Upload | None:
    """The open session that the same push began, from this machine or another: same name, version, paths and sizes."""
    wanted = sorted((file.path, file.size) for file in source.files)
    for upload in uploads:
        if upload.state is not UploadState.OPEN or upload.name != name or version not in {None, upload.version}:
            continue
        if sorted((file.path, file.size) for file in upload.files) == wanted:
            return upload
    return None


def worth_hashing(upload: Upload, source: Source, digests: Mapping[str, str]) -> list[LocalFile]:
    """Files whose size equals that of a stored one, and whose digest is not known yet."""
    candidates = set(upload.hash_candidates) - digests.keys()
    return [file for file in source.files if file.path in candidates]


def missing_parts(upload: Upload) -> Iterator[tuple[UploadFile, Part]]:
    """The parts that are not there yet, in the order they lie on disk."""
    for file in upload.files:
        if file.reused:
            continue
        done = set(file.parts_done)
        for k in range(file.parts):
            if k not in done:
                offset = k * upload.part_size
                yield file, Part(file.n, k, offset, max(0, min(upload.part_size, file.size - offset)))


def bytes_missing(parts: Sequence[Part]) -> int:
    return sum(part.size for part in parts)
