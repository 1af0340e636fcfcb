"""Uploads: sessions that a client opens, fills part by part from any machine, and completes."""

import hashlib
import struct
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from modelshare.wire.base import Request, Response, UnixSeconds
from modelshare.wire.models import ModelFile, ModelName, VersionNotes
from modelshare.wire.patterns import MAX_PATTERNS, PlainPattern
from modelshare.wire.semver import SemVer

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
MAX_FILES = 10_000
BATCH_FILES = 500
"""Maximum number of files in one batch request."""
BATCH_BYTES = 8 << 20
"""Maximum size of a batch request."""
BATCH_HEAD = struct.Struct(">IQ32s")
"""Header before each file in a batch request: its number in the session, its size, its SHA-256."""
PART_URLS = 64
"""Maximum number of parts in one request for presigned URLs."""
MAX_SIZE = 2**53 - 1
"""Larger integers lose precision in many JSON parsers (RFC 7493, section 2.2)."""
MIN_PART_SIZE = 5 << 20
"""Object stores accept no smaller part, except the last one."""
MAX_PART_SIZE = 64 << 20
"""Maximum part size that a client may request."""


class FileEntry(Request):
    path: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0, le=MAX_SIZE)]
    sha256: Sha256 | None = None
    """Optional. If the project already stores a file with this digest, it need not be sent."""


class ArchiveEntry(Request):
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    size: Annotated[int, Field(gt=0, le=MAX_SIZE)]


class NewVersion(Request):
    """What can be said of a new version, however its files are published."""

    version: SemVer | None = None
    """None means the next patch version (1.0.0 for a new model)."""
    make_latest: bool | None = None
    """Whether it becomes the latest once it is ready. None: if it is higher than the latest and not a pre-release."""
    version_notes: VersionNotes | None = None
    """What users should know about this version."""
    file: ModelFile | None = None
    """A file that selects which of several models to describe and run; None lets the server choose."""


class VersionOpen(NewVersion):
    """A new version of a model: either `files` or `archive` (.tar, .tar.gz, .tar.bz2, .tar.zst)."""

    files: Annotated[list[FileEntry], Field(min_length=1, max_length=MAX_FILES)] | None = None
    archive: ArchiveEntry | None = None
    include: Annotated[list[PlainPattern], Field(max_length=MAX_PATTERNS)] | None = None
    """`.gitignore` patterns of files to include although they are left out by default, such as `.env`. Otherwise such a
    file is rejected in `files` and skipped in an archive."""
    exclude: Annotated[list[PlainPattern], Field(max_length=MAX_PATTERNS)] | None = None
    """Patterns of further files to leave out of an archive."""
    part_size: Annotated[int, Field(ge=MIN_PART_SIZE, le=MAX_PART_SIZE)] | None = None
    """Bytes. A client on a slow or unreliable connection may ask for smaller parts than the server's default. A new
    session uses it if it is smaller, doubled as needed if a file would have too many parts; a resumed session keeps its
    own part size."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.files is None) == (self.archive is None):
            msg = "Give either `files` or `archive`."
            raise ValueError(msg)
        return self


class UploadOpen(VersionOpen):
    """A new version of the project's model with this name. The model is created if it does not exist."""

    name: ModelName


class UploadState(StrEnum):
    OPEN = "open"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class UploadFile(Response):
    n: int
    path: str
    size: int
    parts: int
    """Number of parts; part k (from 0) covers bytes [k x part_size, (k + 1) x part_size)."""
    parts_done: list[int]
    """Numbers of the stored parts."""
    parts_sha256: dict[int, str] = Field(default_factory=dict)
    """SHA-256 of stored parts, if the storage knows it. A client that resumes a push uses it to check that its file is
    unchanged."""
    reused: bool
    """True if the project already stores the same bytes: nothing to send."""


class Upload(Response):
    object: Literal["upload"] = "upload"
    id: str
    model: str
    """The model's id."""
    name: str
    version: str
    state: UploadState
    part_size: int
    direct: bool
    """True if parts are sent directly to a bucket by presigned URLs (`POST .../part-urls`)."""
    files: list[UploadFile]
    bytes_total: int
    bytes_done: int
    latest_note: str | None = None
    """Why the version would not become the latest, as of now. Only in responses to opening and completing."""
    hash_candidates: list[str] = Field(default_factory=list)
    """Paths of files with the same size as a stored file: opening again with their sha256 may avoid sending them."""
    created_at: UnixSeconds
    expires_at: UnixSeconds


DEFERRED = "deferred"
"""Checksum value for a part whose sender verifies the digest in the response afterwards."""


class PartDone(Response):
    object: Literal["upload.part"] = "upload.part"
    n: int
    k: int
    size: int
    sha256: Sha256
    """Digest of the bytes that the server received."""


class FileDigest(Request):
    """A file's digest, computed by its owner from what was sent."""

    n: Annotated[int, Field(ge=0, lt=MAX_FILES)]
    sha256: Sha256 | None = None
    """Digest of the whole file."""
    parts_sha256: Sha256 | None = None
    """SHA-256 of the concatenated SHA-256 digests of its parts (32 bytes each)."""
    parts_md5: Md5 | None = None
    """MD5 of the concatenated MD5 digests of its parts (16 bytes each). If a bucket of the project's own confirms it,
    the platform takes `sha256` from the owner and does not read the file again."""

    @model_validator(mode="after")
    def _some_digest(self) -> Self:
        if self.sha256 is None and self.parts_sha256 is None:
            msg = "Give `sha256` or `parts_sha256`."
            raise ValueError(msg)
        return self


class UploadComplete(Request):
    """Completes an upload. If a file does not match its digest given here, the upload stays open."""

    files: Annotated[list[FileDigest], Field(max_length=MAX_FILES)] = Field(default_factory=list)


class FilesDone(Response):
    """The files of a batch request, in its order."""

    object: Literal["upload.files"] = "upload.files"
    data: list[PartDone]


class PartUrl(Response):
    """A presigned PUT to the owner's bucket: send the part's bytes with exactly these headers."""

    url: str
    headers: dict[str, str]
    expires_at: UnixSeconds


class PartPlace(Request):
    """Part `k` of file `n`, both counted from 0."""

    n: Annotated[int, Field(ge=0, lt=MAX_FILES)]
    k: Annotated[int, Field(ge=0, le=MAX_SIZE)]


class PartUrlsRequest(Request):
    """Asks for presigned URLs of several parts, of any files of the upload."""

    parts: Annotated[list[PartPlace], Field(min_length=1, max_length=PART_URLS)]


class PartUrls(Response):
    """The presigned URLs of a request, in its order."""

    object: Literal["upload.part_urls"] = "upload.part_urls"
    data: list[PartUrl]


def md5_of_parts(digests: Iterable[bytes]) -> str:
    """Computes `FileDigest.parts_md5` from the MD5 of each part, in order."""
    return hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()


def digest_of_parts(digests: Iterable[str]) -> str:
    """Computes `FileDigest.parts_sha256` from the SHA-256 of each part, in order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
