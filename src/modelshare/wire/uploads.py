"""Uploads: sessions that a client opens, fills part by part from any machine, and completes."""

import hashlib
import struct
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from modelshare.wire.base import Request, Response, UnixSeconds
from modelshare.wire.models import ModelFile, ModelName, VersionNotes
from modelshare.wire.semver import SemVer

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_FILES = 10_000
BATCH_FILES = 500
"""Most files that one request may bring."""
BATCH_BYTES = 8 << 20
"""Most bytes of such a request."""
BATCH_HEAD = struct.Struct(">IQ32s")
"""Before each file of such a request: its number in the session, its size, its SHA-256."""
MAX_SIZE = 2**53 - 1
"""Bytes; beyond it JSON numbers lose digits in most readers (RFC 7493, section 2.2)."""
MIN_PART_SIZE = 5 << 20
"""Bytes; object stores take no smaller part, unless it is the last."""
MAX_PART_SIZE = 64 << 20
"""Bytes, of a part size that a client may ask for."""


class FileEntry(Request):
    path: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0, le=MAX_SIZE)]
    sha256: Sha256 | None = None
    """Given, the server can take over a file the project already stores, and nothing is sent."""


class ArchiveEntry(Request):
    filename: Annotated[str, Field(min_length=1, max_length=255)]
    size: Annotated[int, Field(gt=0, le=MAX_SIZE)]


class VersionOpen(Request):
    """A new version of a model: either `files` or `archive` (.tar, .tar.gz, .tar.bz2, .tar.zst)."""

    version: SemVer | None = None
    """None takes the next patch version (1.0.0 for a new model)."""
    make_latest: bool | None = None
    """Whether it becomes the latest once it is ready. None: where it is higher than the latest, and no pre-release."""
    version_notes: VersionNotes | None = None
    """What people should know of this version."""
    file: ModelFile | None = None
    """Which of several models in it is the one to describe and run, by a file of it; None lets the server choose."""
    files: Annotated[list[FileEntry], Field(min_length=1, max_length=MAX_FILES)] | None = None
    archive: ArchiveEntry | None = None
    part_size: Annotated[int, Field(ge=MIN_PART_SIZE, le=MAX_PART_SIZE)] | None = None
    """Bytes: what a client on a slow or shaky line would rather send at once. A new session takes it where the server's
    own size is larger, and doubles it where a file would have too many parts; a session that is resumed keeps its own.
    """

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.files is None) == (self.archive is None):
            msg = "Give either `files` or `archive`."
            raise ValueError(msg)
        return self


class UploadOpen(VersionOpen):
    """A new version of the project's model of this name, which may be new itself."""

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
    """How many parts the file has; part k (from 0) covers bytes [k x part_size, (k + 1) x part_size)."""
    parts_done: list[int]
    """Which parts are there."""
    parts_sha256: dict[int, str] = Field(default_factory=dict)
    """SHA-256 of parts that are there, where the storage knows it: by it a client that goes on with an earlier push
    sees whether its file is still the same."""
    reused: bool
    """True where the project already stored the same bytes: nothing to send."""


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
    """True where parts go straight to a bucket by presigned URLs (`POST .../parts/{k}/url`)."""
    files: list[UploadFile]
    bytes_total: int
    bytes_done: int
    latest_note: str | None = None
    """In the answer to opening and completing: why the version would not become the latest as things stand."""
    hash_candidates: list[str] = Field(default_factory=list)
    """Paths whose size equals a stored file's: opening again with their sha256 may save sending them."""
    created_at: UnixSeconds
    expires_at: UnixSeconds


DEFERRED = "deferred"
"""The checksum of a part whose sender compares the digest in the answer with the file afterwards."""


class PartDone(Response):
    object: Literal["upload.part"] = "upload.part"
    n: int
    k: int
    size: int
    sha256: Sha256
    """Of the bytes that the server has received."""


class FileDigest(Request):
    """What a file holds, as its owner has read it after all of it was sent."""

    n: Annotated[int, Field(ge=0, lt=MAX_FILES)]
    sha256: Sha256 | None = None
    """Of the whole file."""
    parts_sha256: Sha256 | None = None
    """Of the SHA-256 digests of its parts, 32 bytes each, one after the other."""

    @model_validator(mode="after")
    def _some_digest(self) -> Self:
        if self.sha256 is None and self.parts_sha256 is None:
            msg = "Give `sha256` or `parts_sha256`."
            raise ValueError(msg)
        return self


class UploadComplete(Request):
    """The end of an upload. A file with a digest here is published as exactly that, or the upload stays open."""

    files: Annotated[list[FileDigest], Field(max_length=MAX_FILES)] = Field(default_factory=list)


class FilesDone(Response):
    """Files that came by one request, in its order."""

    object: Literal["upload.files"] = "upload.files"
    data: list[PartDone]


class PartUrl(Response):
    """A presigned PUT to the owner's bucket: send the part's bytes with exactly these headers."""

    url: str
    headers: dict[str, str]
    expires_at: UnixSeconds


def digest_of_parts(digests: Iterable[str]) -> str:
    """`FileDigest.parts_sha256` for the SHA-256 of each part, in order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
