"""A blob store in a folder of this machine; only one server process writes to it.

<root>/blobs/<key>      finished files
<root>/staging/<key>/   uploads in progress, see staging.py
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import unquote, urlsplit

from modelshare import private_files
from modelshare.server.storage.attempts import Attempt, Attempts
from modelshare.server.storage.base import Inflow, Multipart, Part, Proof, check_key
from modelshare.server.storage.batch import Arrival, sync_folders, write_all
from modelshare.server.storage.digest import sha256_of
from modelshare.server.storage.growing_digest import GrowingDigest
from modelshare.server.storage.signed_urls import LinkState, check_link, signed_link
from modelshare.server.storage.staging import PartWriter, Staging, move, no_room
from modelshare.server.storage.stores import StorageContext
from modelshare.server.storage_errors import (
    BlobNotFoundError,
    ChecksumMismatchError,
    InvalidKeyError,
    MultipartNotFoundError,
    SizeMismatchError,
    StorageFullError,
    StorageSettingError,
    StorageUnavailableError,
)

KEEP_FREE = 256 << 20
"""Bytes that uploads leave free, so that a database on the same disk can still write."""
_BATCH = 1 << 20
"""Bytes handed to a thread at once; a part in flight holds at most two batches."""
_SYNCS = 16
"""Concurrent `fsync` calls for small files: file systems flush them together."""
_HASH_STEP = 4 << 20
_PROBE = 4096
"""Bytes to write to find out whether the disk is full: too many to be stored inline in an inode."""
Result = TypeVar("Result")


def open_folder(url: str, context: StorageContext) -> "FolderStore":
    """Opens `file:///FOLDER`, or the default folder in the data folder for `file:`. Raises StorageSettingError."""
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment:
        raise StorageSettingError("A folder must read file:///FOLDER, with three slashes.")
    root = Path(unquote(parts.path)) if parts.path else context.data_dir / "storage"
    return FolderStore(root, context.secret, clock=context.clock)


class FolderStore:
    direct: Literal[False] = False

    def __init__(
        self, root: Path, secret: bytes, *, keep_free: int = KEEP_FREE, clock: Callable[[], float] = time.time
    ) -> None:
        """`secret` signs the download links."""
        self._blobs = root.absolute() / "blobs"
        self._staging = root.absolute() / "staging"
        self._secret = secret
        self._keep_free = keep_free
        self._clock = clock
        self._attempts: Attempts[str, int] = Attempts()
        self._sealed: Counter[str] = Counter()
        """The number of active seals, by upload ID."""
        self._digests: dict[tuple[str, str], GrowingDigest] = {}
        """By key and ID of the upload."""
        self._syncers = ThreadPoolExecutor(_SYNCS, thread_name_prefix="sync")
        self._hashers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="digest")
        for folder in (self._blobs, self._staging):
            private_files.folder(folder)

    async def begin(self, key: str, size: int, part_size: int) -> Multipart:
        await self.require_space(size)
        upload = Multipart(check_key(key), secrets.token_hex(16), size, part_size)
        await self._run(self._staged(upload).create, size)
        return upload

    async def write_part(
        self, upload: Multipart, number: int, chunks: AsyncIterator[bytes] | Inflow, sha256: str | None
    ) -> Part:
        offset, size = upload.span(number)
        staged = self._staged(upload)
        await self.require_space(size)
        if upload.id in self._sealed:
            raise MultipartNotFoundError
        with self._attempts.newest(upload.id, number) as attempt:
            await attempt.settle()
            file = await self._run(staged.open)
            try:
                # A stored part that is sent again is verified but not written, so that bytes damaged in transit do no
                # harm.
                digest = await self._digest_of(upload, staged)
                repeated = sha256 is not None and await asyncio.to_thread(staged.mark, number) == sha256
                writer = PartWriter(None if repeated else file, offset)
                if not repeated:
                    digest.invalidate(number)
                    await attempt.start(lambda: staged.clear_mark(number))
                await _receive(attempt, writer, chunks, size)
                if sha256 is not None and writer.sha256 != sha256:
                    raise ChecksumMismatchError
                if not repeated:
                    await attempt.start(writer.sync)
                    await attempt.start(lambda: staged.set_mark(number, writer.sha256))
                    await attempt.settle()
                    digest.part_written(number, writer.sha256, self._hashers)
            finally:
                attempt.when_idle(lambda: os.close(file))
        return Part(number, size, writer.sha256)

    async def begin_all(self, wanted: Sequence[Multipart]) -> list[Multipart]:
        await self.require_space(sum(upload.size for upload in wanted))
        opened = [replace(upload, key=check_key(upload.key), id=secrets.token_hex(16)) for upload in wanted]

        def create() -> None:
            for upload in opened:
                self._staged(upload).create(upload.size)

        await self._run(create)
        return opened

    async def write_files(self, files: Sequence[tuple[Multipart, memoryview, str]]) -> None:
        await self.require_space(sum(len(content) for _, content, _ in files))
        arrivals = []
        for upload, content, sha256 in files:
            staged = self._staged(upload)
            digest = self._digests.setdefault(
                (upload.key, upload.id),
                GrowingDigest(staged.data, upload.size, upload.part_size, {}, self._clock),
            )
            arrivals.append(Arrival(staged, digest, content, sha256))
        if any(upload.id in self._sealed for upload, _, _ in files):
            raise MultipartNotFoundError
        with contextlib.ExitStack() as stack:
            attempts = [stack.enter_context(self._attempts.newest(upload.id, 0)) for upload, _, _ in files]
            await Attempt.start_together(attempts, partial(write_all, arrivals, self._syncers))
            await attempts[0].settle()

    async def list_parts(self, upload: Multipart) -> list[Part]:
        return await self._run(self._staged(upload).parts, _sizes(upload))

    async def list_parts_of(self, uploads: Sequence[Multipart]) -> list[list[Part]]:
        def list_all() -> list[list[Part]]:
            found = []
            for upload in uploads:
                parts: list[Part] = []
                with contextlib.suppress(MultipartNotFoundError):
                    parts = self._staged(upload).parts(_sizes(upload))
                found.append(parts)
            return found

        return await self._run(list_all)

    async def seal(self, uploads: Sequence[Multipart]) -> None:
        self._sealed.update(upload.id for upload in uploads)  # a seal of each: calls may overlap
        for upload in uploads:
            await self._attempts.end(upload.id)

    async def unseal(self, uploads: Sequence[Multipart]) -> None:
        await asyncio.sleep(0)
        self._sealed -= Counter(upload.id for upload in uploads)

    async def finish(self, upload: Multipart) -> Proof | None:
        [proof] = await self.finish_all([upload])
        return proof

    async def finish_all(self, uploads: Sequence[Multipart]) -> list[Proof | None]:
        await self.seal(uploads)
        try:
            proofs = await self._run(self._finish_all, uploads)
        except BaseException:
            await self.unseal(uploads)
            raise
        self._forget_seals(uploads)
        return proofs

    async def abort(self, upload: Multipart) -> None:
        self._digests.pop((upload.key, upload.id), None)
        await self._run(self._staged(upload).remove)
        self._forget_seals([upload])

    async def put_file(self, key: str, path: Path) -> None:
        blob = self._blob(key)
        await self._run(move, path, blob)

    async def require_space(self, size: int) -> None:
        usage = await self._run(shutil.disk_usage, self._blobs)
        if usage.free - size < self._keep_free:
            raise StorageFullError

    async def digest(
        self,
        key: str,
        *,
        progress: Callable[[int], None] | None = None,
        also: Callable[[bytes], None] | None = None,
    ) -> tuple[str, int]:
        reader = await asyncio.to_thread(self.reader, key)
        return await sha256_of(reader, step=_HASH_STEP, ahead=2, progress=progress, also=also)

    def reader(self, key: str) -> "FileReader":
        path = self.path(key)
        return FileReader(path, path.stat().st_size, self._available)

    @contextlib.asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        yield await asyncio.to_thread(self.path, key)

    def get_url(self, key: str, *, expires_at: int, base_url: str) -> str:
        return signed_link(base_url, check_key(key), expires_at, self._secret)

    async def check(self) -> None:
        await self._run(self._write_something)

    async def delete(self, key: str) -> None:
        await self._run(partial(self._blob(key).unlink, missing_ok=True))

    async def delete_prefix(self, prefix: str) -> None:
        check_key(prefix)
        for key, upload_id in [each for each in self._digests if each[0].startswith(f"{prefix}/")]:
            self._digests.pop((key, upload_id), None)
        for folder in (self._blobs, self._staging):
            await self._run(partial(shutil.rmtree, folder / prefix, ignore_errors=True))

    def check_link(self, key: str, query: bytes) -> LinkState:
        """Verifies the query string of a download link for `key`."""
        return check_link(key, query, self._secret, self._clock())

    def path(self, key: str) -> Path:
        """Blocks. The path of the blob. Raises BlobNotFoundError, StorageUnavailableError."""
        path = self._blob(key)
        with self._available():
            if not path.is_file():
                raise BlobNotFoundError
        return path

    async def _run(self, work: Callable[..., Result], *args: object) -> Result:
        """Calls `work` in a thread. Raises StorageUnavailableError while the folder is missing, StorageFullError."""

        def guarded() -> Result:
            with self._available():
                return work(*args)

        return await asyncio.to_thread(guarded)

    @contextlib.contextmanager
    def _available(self) -> Iterator[None]:
        """Raises StorageUnavailableError while the folder is missing, for example not mounted.

        Otherwise its blobs would be reported as deleted, and new ones written below the mount point.
        """
        if not (self._blobs.is_dir() and self._staging.is_dir()):
            raise StorageUnavailableError(
                "The server's storage is unavailable. Try again when the operator has restored it."
            )
        with no_room():
            yield

    def _write_something(self) -> None:
        probe = self._staging / f".probe-{secrets.token_hex(4)}"  # never a key: their segments do not start with a dot
        try:
            probe.write_bytes(bytes(_PROBE))
        finally:
            probe.unlink(missing_ok=True)

    def _blob(self, key: str) -> Path:
        return self._blobs / check_key(key)

    def _staged(self, upload: Multipart) -> Staging:
        if "/" in upload.id:
            raise InvalidKeyError("Invalid upload ID.")
        return Staging(self._staging / check_key(upload.key) / check_key(upload.id))

    def _forget_seals(self, uploads: Sequence[Multipart]) -> None:
        """For uploads that have ended: without their staging files nothing can be written to them."""
        for upload in uploads:
            self._sealed.pop(upload.id, None)

    async def _digest_of(self, upload: Multipart, staged: Staging) -> GrowingDigest:
        """The digest of a file during its upload; loads the parts stored before a restart."""
        name = upload.key, upload.id
        if name not in self._digests:
            parts = await self._run(staged.marks)
            fresh = GrowingDigest(staged.data, upload.size, upload.part_size, parts, self._clock)
            return self._digests.setdefault(name, fresh)
        return self._digests[name]

    def _finish_all(self, uploads: Sequence[Multipart]) -> list[Proof | None]:
        try:
            return [self._finish(upload) for upload in uploads]
        finally:
            sync_folders(blob for upload in uploads if (blob := self._blob(upload.key)).exists())

    def _finish(self, upload: Multipart) -> Proof | None:
        staged, blob = self._staged(upload), self._blob(upload.key)
        digest = self._digests.get((upload.key, upload.id))
        try:
            proof = digest.proof() if digest is not None else None
            staged.publish(blob, _sizes(upload))
        except MultipartNotFoundError:
            # An earlier call published it, but its response was lost.
            if not blob.is_file() or blob.stat().st_size != upload.size:
                raise
            staged.remove()
            return None
        self._digests.pop((upload.key, upload.id), None)
        return proof


@dataclass(frozen=True, slots=True)
class FileReader:
    path: Path
    size: int
    _available: Callable[[], AbstractContextManager[None]]

    def read_at(self, offset: int, length: int) -> bytes:
        try:
            with self._available(), self.path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)
        except FileNotFoundError:
            raise BlobNotFoundError from None


async def _receive(attempt: Attempt, writer: PartWriter, chunks: AsyncIterator[bytes] | Inflow, size: int) -> None:
    if isinstance(chunks, AsyncIterator):
        await _receive_chunks(attempt, writer, chunks, size)
        return
    while await chunks.more():  # exactly Content-Length bytes, which were compared with the size
        await attempt.start(partial(chunks.take, lambda piece: writer.write([piece])))
        await attempt.settle()


async def _receive_chunks(attempt: Attempt, writer: PartWriter, chunks: AsyncIterator[bytes], size: int) -> None:
    """Passes the chunks to the writer in batches: one is written while the next is received."""
    received = 0
    batch: list[bytes] = []
    batch_size = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > size:
            raise SizeMismatchError(size, more=True)
        batch.append(chunk)
        batch_size += len(chunk)
        if batch_size >= _BATCH:
            await attempt.start(partial(writer.write, batch))
            batch, batch_size = [], 0
    if received < size:
        raise SizeMismatchError(size, more=False)
    await attempt.start(partial(writer.write, batch))
    await attempt.settle()


def _sizes(upload: Multipart) -> list[int]:
    return [upload.span(number)[1] for number in range(upload.count)]
