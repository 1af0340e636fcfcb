"""The interface of a blob store. There are two kinds; type checkers can tell them apart by `store.direct`:

- a `ServedStore` (a folder): parts are uploaded, and files downloaded, through this server;
- a `DirectStore` (a bucket): clients upload parts to it and download files from it by presigned URLs.

Files are stored by multipart upload: `begin`, parts in any order and from any machine, `finish`. The store, not our
database, knows which parts it has. A finished blob never changes. A synchronous method says "Blocks" if it does; call
it in a thread. Errors are those of `storage_errors`.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from modelshare.server.storage_errors import InvalidKeyError

MAX_PARTS = 10_000
"""S3's limit of parts per upload (AWS, "Amazon S3 multipart upload limits"); every store keeps to it."""
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
_MAX_KEY = 512


@dataclass(frozen=True, slots=True)
class Multipart:
    """An upload in progress. Part `number` (from 0) covers bytes [number x part_size, (number + 1) x part_size)."""

    key: str
    id: str
    """The ID that the store gave this upload."""
    size: int
    part_size: int

    @property
    def count(self) -> int:
        """The number of parts; 0 for an empty file."""
        return -(-self.size // self.part_size)

    def span(self, number: int) -> tuple[int, int]:
        """Offset and size of a part, in bytes. Raises InvalidKeyError if the number is out of range."""
        if not 0 <= number < self.count:
            raise InvalidKeyError(f"There is no part {number}; the file has {self.count} part(s), counted from 0.")
        offset = number * self.part_size
        return offset, min(self.part_size, self.size - offset)


@dataclass(frozen=True, slots=True)
class Part:
    """A stored part. `etag` identifies its content: a ServedStore's is the SHA-256, or empty where it is not known."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Shows that this server has hashed these bytes itself, and that nothing has written to them since."""

    sha256: str
    size: int
    at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """What a bucket has put together, of parts that it has hashed itself."""

    parts_md5: str
    """MD5 of the parts' ETags, which are MD5 digests, unless the bucket encrypts with a customer's key."""


@dataclass(frozen=True, slots=True)
class SignedPut:
    """A presigned PUT: send the bytes with exactly these headers."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_at: int | None = None
    """Unix seconds, where it is earlier than was asked for."""


class Inflow(Protocol):
    """A request body that worker threads read without copying."""

    async def more(self) -> bool:
        """Waits for more bytes; False at the end of the body."""
        ...

    def take(self, sink: Callable[[memoryview], None]) -> None:
        """Blocks briefly. Passes the bytes received so far to `sink`, in pieces that are valid only during the call."""
        ...


class RangeReader(Protocol):
    """Random access to a finished blob, for code that runs in threads. Keeps no file or connection open."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Blocks. Returns exactly `length` bytes, or fewer at the end of the blob."""
        ...


class Store(Protocol):
    """What both kinds of stores provide. Every method may raise StorageUnavailableError."""

    async def begin(self, key: str, size: int, part_size: int) -> Multipart:
        """Opens an upload of `size` bytes. Raises StorageFullError."""
        ...

    async def list_parts(self, upload: Multipart) -> list[Part]:
        """The stored parts, in order. Raises MultipartNotFoundError."""
        ...

    async def finish(self, upload: Multipart) -> Proof | Assembled | None:
        """Assembles the blob from its parts. Safe to repeat. Raises PartsMissingError, MultipartNotFoundError.

        Returns the blob's digest if the store has hashed all of it during the upload, or what a bucket knows of its
        parts, or None.
        """
        ...

    async def abort(self, upload: Multipart) -> None:
        """Deletes the upload and its parts, if they exist. Keeps a finished blob."""
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Moves a local file into the store: `path` no longer exists afterwards. Raises StorageFullError."""
        ...

    async def require_space(self, size: int) -> None:
        """Raises StorageFullError if `size` more bytes do not fit."""
        ...

    async def digest(
        self,
        key: str,
        *,
        progress: Callable[[int], None] | None = None,
        also: Callable[[bytes], None] | None = None,
    ) -> tuple[str, int]:
        """Reads the whole blob; returns its SHA-256 in hex and its size. Calls `progress` with the bytes read so
        far. `also` gets the content in chunks, in a thread."""
        ...

    def reader(self, key: str) -> RangeReader:
        """Blocks. Raises BlobNotFoundError."""
        ...

    def local_copy(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The blob as a local file to read: the stored file itself, or a copy that is deleted afterwards."""
        ...

    def get_url(self, key: str, *, expires_at: int, base_url: str) -> str:
        """A signed URL for GET requests, with or without `Range`, valid until `expires_at` (Unix seconds).

        `base_url` is the public URL of this server.
        """
        ...

    async def check(self) -> None:
        """Checks quickly whether the store is usable. Raises StorageUnavailableError, StorageFullError."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes the blob, if it exists."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Deletes all blobs and all uploads in progress below `prefix/`."""
        ...


class ServedStore(Store, Protocol):
    """Parts are uploaded through this server."""

    @property
    def direct(self) -> Literal[False]: ...

    async def write_part(
        self, upload: Multipart, number: int, chunks: AsyncIterator[bytes] | Inflow, sha256: str | None
    ) -> Part:
        """Stores one part as it streams in. Once this returns, the part is listed and survives a power cut.

        Parts of one file may be sent in parallel. Sending a part again is safe; the newest attempt wins.
        Raises PartRefusedError (the client should send the part again), MultipartNotFoundError, StorageFullError.
        """
        ...

    async def begin_all(self, wanted: Sequence[Multipart]) -> list[Multipart]:
        """Opens an upload for each of `wanted`, ignoring their IDs. Raises StorageFullError."""
        ...

    async def write_files(self, files: Sequence[tuple[Multipart, memoryview, str]]) -> None:
        """Stores files of one part each: (upload, content, SHA-256). The caller has verified the SHA-256.

        Like `write_part` for each. Raises PartReplacedError, MultipartNotFoundError, StorageFullError.
        """
        ...

    async def list_parts_of(self, uploads: Sequence[Multipart]) -> list[list[Part]]:
        """Like `list_parts` for each, but an empty list for an upload that does not exist."""
        ...

    async def finish_all(self, uploads: Sequence[Multipart]) -> list[Proof | None]:
        """Like `finish` for each."""
        ...

    async def seal(self, uploads: Sequence[Multipart]) -> None:
        """Rejects further parts, until `finish`, `abort` or an equal number of calls of `unseal`."""
        ...

    async def unseal(self, uploads: Sequence[Multipart]) -> None:
        """Undoes one `seal`. When all are undone, parts are accepted again."""
        ...


class DirectStore(Store, Protocol):
    """Clients upload parts directly to the bucket."""

    @property
    def direct(self) -> Literal[True]: ...

    @property
    def origin(self) -> str:
        """Scheme, host and port of presigned URLs. The Content-Security-Policy must allow browsers to connect there."""
        ...

    async def put_part(self, upload: Multipart, number: int, content: bytes) -> Part:
        """Stores one part that this server has in memory; the bucket rejects bytes damaged in transit.

        Raises MultipartNotFoundError.
        """
        ...

    def part_url(self, upload: Multipart, number: int, *, expires_at: int, md5: str | None = None) -> SignedPut:
        """A presigned PUT of one part. With `md5` (hex), the bucket rejects bytes damaged in transit."""
        ...


class PinnedStore(Protocol):
    """What a store of files that others can change has besides. Its keys contain what the file has to be."""

    async def changes(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Which of these files are no longer what their keys say, and what happened, such as "was replaced".

        Raises StorageUnavailableError if the store cannot tell.
        """
        ...


BlobStore: TypeAlias = ServedStore | DirectStore


def check_key(key: str) -> str:
    """Returns `key`. Raises InvalidKeyError unless it is segments of `A-Za-z0-9_.-` separated by `/`, no leading
    dots."""
    if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
        raise InvalidKeyError("Invalid name of a stored file. Use the URL from a grant unchanged.")
    return key


def fit_part_size(size: int, wanted: int) -> int:
    """`wanted`, doubled until a file of `size` bytes has at most MAX_PARTS parts."""
    part_size = wanted
    while size > part_size * MAX_PARTS:
        part_size *= 2
    return part_size
