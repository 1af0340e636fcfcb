"""What a store of weights does. Two kinds exist, and `store.direct` tells them apart for people and type checker alike:

- a `ServedStore` (a folder): parts come in, and files go out, through this server;
- a `DirectStore` (a bucket): clients send parts to it and fetch files from it by presigned URLs.

A file comes in as a multipart upload: `begin`, parts in any order and from any machine, `finish`. The store, not our
database, knows which parts are there. A finished blob never changes. Methods that are not `async` say so where they
block; call those in a thread. Errors are those of `storage_errors`.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from modelshare.server.storage_errors import InvalidKeyError

MAX_PARTS = 10_000
"""S3's limit of parts per upload (AWS, "Amazon S3 multipart upload limits"); kept by every store."""
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
_MAX_KEY = 512


@dataclass(frozen=True, slots=True)
class Multipart:
    """An upload in progress. Part `number` (from 0) covers bytes [number x part_size, (number + 1) x part_size)."""

    key: str
    id: str
    """The store's own name for it."""
    size: int
    part_size: int

    @property
    def count(self) -> int:
        """How many parts; an empty file has none."""
        return -(-self.size // self.part_size)

    def span(self, number: int) -> tuple[int, int]:
        """Offset and size of a part. Raises InvalidKey when there is no such part."""
        if not 0 <= number < self.count:
            raise InvalidKeyError(f"There is no part {number}; the file has {self.count} part(s), counted from 0.")
        offset = number * self.part_size
        return offset, min(self.part_size, self.size - offset)


@dataclass(frozen=True, slots=True)
class Part:
    """A part that has arrived whole. `etag` is the store's fingerprint: SHA-256 in a folder, often MD5 in a bucket."""

    number: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Proof:
    """The server itself has hashed these bytes, and nothing has written to them since."""

    sha256: str
    size: int
    at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class SignedPut:
    """A presigned PUT: send the bytes with exactly these headers."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Inflow(Protocol):
    """Bytes on their way from a client, as threads take them."""

    async def more(self) -> bool:
        """Waits until some are here; False when there are no more."""
        ...

    def take(self, sink: Callable[[memoryview], None]) -> None:
        """Blocks, though not for long: gives `sink` what has come, in pieces that are valid while it runs."""
        ...


class RangeReader(Protocol):
    """Random access to a finished blob, for code that runs in threads. Holds nothing open."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Blocks. Exactly the bytes asked for, fewer only past the end."""
        ...


class Store(Protocol):
    """What both kinds do. Every method may raise StorageUnavailable."""

    async def begin(self, key: str, size: int, part_size: int) -> Multipart:
        """Opens an upload of `size` bytes. Raises StorageFull."""
        ...

    async def list_parts(self, upload: Multipart) -> list[Part]:
        """The parts that are there, in order. Raises MultipartNotFound."""
        ...

    async def finish(self, upload: Multipart) -> Proof | None:
        """Makes the blob of its parts; doing it twice is doing it once. Raises PartsMissing, MultipartNotFound.

        Answers the blob's digest where the store has hashed all of it while it came in.
        """
        ...

    async def abort(self, upload: Multipart) -> None:
        """Forgets the upload and its parts, if there are any. A finished blob stays."""
        ...

    async def put_file(self, key: str, path: Path) -> None:
        """Takes over a file that the server made: `path` is gone afterwards. Raises StorageFull."""
        ...

    async def require_space(self, size: int) -> None:
        """Raises StorageFull when `size` more bytes would not fit."""
        ...

    async def digest(self, key: str, *, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
        """Reads the blob anew: its SHA-256 in hex and its size. `progress` hears the bytes done so far."""
        ...

    def reader(self, key: str) -> RangeReader:
        """Blocks. Raises BlobNotFound."""
        ...

    def local_copy(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The blob as a file to read: the stored one itself, or a copy that is deleted afterwards."""
        ...

    def get_url(self, key: str, *, expires_at: int, base_url: str) -> str:
        """A signed URL that answers GET and `Range` until `expires_at` (Unix seconds). `base_url` is this server's."""
        ...

    async def check(self) -> None:
        """Looks whether the store can be used now, quickly. Raises StorageUnavailable, StorageFull."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes the blob, if there is one."""
        ...

    async def delete_prefix(self, prefix: str) -> None:
        """Deletes every blob and every upload in progress below `prefix/`."""
        ...


class ServedStore(Store, Protocol):
    """Parts come through this server."""

    @property
    def direct(self) -> Literal[False]: ...

    async def write_part(
        self, upload: Multipart, number: int, chunks: AsyncIterator[bytes] | Inflow, sha256: str | None
    ) -> Part:
        """Stores one part as it streams in. From the moment this returns it counts and survives a power cut.

        Parts of one file may come in parallel. Sending a part again is harmless; the newest attempt wins.
        Raises PartRefused (the part is to be sent again), MultipartNotFound, StorageFull.
        """
        ...

    async def begin_all(self, wanted: Sequence[Multipart]) -> list[Multipart]:
        """Opens an upload for each, whose ids are of no account. Raises StorageFull."""
        ...

    async def write_files(self, files: Sequence[tuple[Multipart, memoryview, str]]) -> None:
        """Stores files of one part, each with its SHA-256, which the caller has compared with the bytes.

        As `write_part` of each. Raises PartReplaced, MultipartNotFound, StorageFull.
        """
        ...

    async def list_parts_of(self, uploads: Sequence[Multipart]) -> list[list[Part]]:
        """As `list_parts` of each; none where that raises MultipartNotFound."""
        ...

    async def finish_all(self, uploads: Sequence[Multipart]) -> list[Proof | None]:
        """As `finish` of each."""
        ...

    async def seal(self, uploads: Sequence[Multipart]) -> None:
        """Lets no part be written any more, until `finish`, `abort` or as many calls of `unseal`."""
        ...

    async def unseal(self, uploads: Sequence[Multipart]) -> None:
        """Takes one `seal` back; after the last, parts may come again."""
        ...


class DirectStore(Store, Protocol):
    """Parts go straight to the bucket."""

    @property
    def direct(self) -> Literal[True]: ...

    @property
    def origin(self) -> str:
        """Scheme, host and port that presigned URLs begin with: browsers have to be allowed to send parts there."""
        ...

    def part_url(self, upload: Multipart, number: int, *, expires_at: int, md5: str | None = None) -> SignedPut:
        """A presigned PUT of one part. With `md5` (hex) the bucket itself refuses bytes damaged on the way."""
        ...


BlobStore: TypeAlias = ServedStore | DirectStore


def check_key(key: str) -> str:
    """`key` as it is. Raises InvalidKey unless it is segments of `A-Za-z0-9_.-` parted by `/`, no dot first."""
    if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
        raise InvalidKeyError("Invalid name of a stored file. Use the URL from a grant unchanged.")
    return key


def fit_part_size(size: int, wanted: int) -> int:
    """`wanted`, doubled until a file of `size` bytes has at most MAX_PARTS parts."""
    part_size = wanted
    while size > part_size * MAX_PARTS:
        part_size *= 2
    return part_size
