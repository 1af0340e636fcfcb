"""The stores of all storages: the platform's own, and those of projects, opened when they are first needed."""

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import structlog

from modelshare import plugins
from modelshare.plugins import PluginError
from modelshare.server.cache import NotifiedCache
from modelshare.server.clock import DatabaseClock
from modelshare.server.db import Database
from modelshare.server.errors import ConflictError
from modelshare.server.http import Platform
from modelshare.server.registry import versions
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.storages import credentials, queries, rules
from modelshare.server.registry.storages.held import HeldStore, Holders
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.sealing import Keyring, SealedError
from modelshare.server.settings import Settings
from modelshare.server.storage.base import BlobStore, PinnedStore, RangeReader
from modelshare.server.storage.stores import PLATFORM
from modelshare.server.storage_errors import OwnStorageError, StorageUnavailableError
from modelshare.wire.errors import ErrorCode

log = structlog.get_logger()
SEPARATOR: Final = ":"
"""Between storage and key in links; neither contains it."""
_REMEDY: Final = "Check the rights there; to change the keys, register the model again with `--access-key-id`."
_OPEN: Final = 100
"""Most stores that are kept open."""


@dataclass(frozen=True, kw_only=True)
class RegistryPlatform(Platform):
    stores: "ProjectStores"


class ProjectStores:
    """The only place that opens the stores of projects and sees their credentials."""

    def __init__(
        self, platform: BlobStore, database: Database, settings: Settings, clock: DatabaseClock, secret: bytes
    ) -> None:
        """`secret` signs links that this server itself answers."""
        self._platform = platform
        self._database = database
        self._settings = settings
        self._clock = clock
        self._secret = secret
        self._keyring = Keyring(settings)
        self._rows: NotifiedCache[str, StorageRow | None] = NotifiedCache(self._load, time.monotonic)
        self._rows.drop_on(database, credentials.TOPIC, lambda subject, key, _: subject == key)
        self._opened: OrderedDict[str, tuple[int, Any]] = OrderedDict()
        self._opening = asyncio.Lock()
        self.holders: Holders | None = None
        """Set when the application is put together: connections are made above this."""

    async def get(self, storage: str) -> BlobStore:
        """`storage`: PLATFORM or a project's storage. Call it outside of transactions. Raises StorageUnavailable."""
        if storage == PLATFORM:
            return self._platform
        row = await self._rows.get(storage)
        if row is None:
            raise StorageUnavailableError("The storage of these files is no longer set up.")
        revision, store = self._opened.get(storage, (0, None))
        if revision != row.revision:
            async with self._opening:
                store = await self._open(storage, row)
        self._opened.move_to_end(storage)
        if row.direct:
            await store.renew()
        opened: BlobStore = store
        return opened

    async def close(self) -> None:
        await self._rows.stop()
        for _, store in self._opened.values():
            await _close(store)

    def own_bucket(self, row: StorageRow) -> Any:
        """The row's bucket with its credentials, as `storage.own_bucket.OwnBucket`. Raises OwnStorageError."""
        parts = _parts()
        try:
            keys = credentials.unseal(self._keyring, row)
        except SealedError as error:
            log.error("cannot decrypt the credentials of a storage", storage=row.id.hex, error=str(error))  # noqa: TRY400 - the sentence says it all
            raise OwnStorageError(
                f"The platform cannot decrypt the credentials of {row.url}. Set them again: `modelshare storage set`."
            ) from error
        identity = parts.keys(**keys) if keys else parts.role(row.role_arn, rules.external_id(row.project_id))
        own = parts.own(row.url, identity, self._settings.storage_allow_private)
        return own if row.writable else replace(own, remedy=_REMEDY)

    def follow(self, row: StorageRow, storage: StorageRow) -> None:
        """Gives the row the keys or the role of another storage of its project. Raises StorageUnavailable."""
        try:
            keys = credentials.unseal(self._keyring, storage)
        except SealedError as error:
            log.error("cannot decrypt the credentials of a storage", storage=storage.id.hex, error=str(error))  # noqa: TRY400 - as above
            raise StorageUnavailableError("The platform cannot decrypt your credentials. Set them again.") from error
        if keys is not None:
            self.seal(row, **keys)
        row.key_hint, row.role_arn, row.credentials_of = storage.key_hint, storage.role_arn, storage.id

    def seal(self, row: StorageRow, access_key_id: str, secret_access_key: str) -> None:
        """Gives the row access keys. It has its id and project. Raises StorageUnavailable."""
        try:
            credentials.seal(self._keyring, row, access_key_id, secret_access_key)
        except SealedError as error:
            log.error("cannot encrypt the credentials of a storage", error=str(error))  # noqa: TRY400 - the sentence says it all
            raise StorageUnavailableError("The platform cannot store credentials. Tell its operator.") from error

    async def _load(self, storage: str) -> StorageRow | None:
        try:
            storage_id = uuid.UUID(hex=storage)
        except ValueError:
            return None
        async with self._database.read() as session:
            return await queries.storage(session, storage_id)

    async def _open(self, storage: str, row: StorageRow) -> Any:
        revision, store = self._opened.get(storage, (0, None))
        if revision == row.revision:
            return store
        fresh = self._held(storage, row) if row.holder_id is not None else await asyncio.to_thread(self.new, row)
        if store is not None:
            await _close(store)
        self._opened[storage] = (row.revision, fresh)
        if len(self._opened) > _OPEN:
            _, (_, oldest) = self._opened.popitem(last=False)
            await _close(oldest)
        return fresh

    def _held(self, storage: str, row: StorageRow) -> HeldStore:
        assert row.holder_id is not None  # noqa: S101 - called for those only
        assert self.holders is not None  # noqa: S101 - set before the first request
        return HeldStore(row.id, row.holder_id, self.holders, _link_names(storage), self._secret)

    def new(self, row: StorageRow) -> Any:
        """Blocks. A store of the row, which may not be in the database yet. Raises OwnStorageError."""
        own, parts = self.own_bucket(row), _parts()
        common = {"scratch": self._settings.data_dir / "scratch", "clock": self._clock, "options": options_of(row)}
        if row.direct:
            return (parts.direct if row.writable else parts.direct_in_place)(own=own, **common)
        relayed = parts.relayed if row.writable else parts.relayed_in_place
        return relayed(own, _link_names(row.id.hex), self._secret, **common)


def _link_names(storage: str) -> Callable[[str], str]:
    return lambda key: f"{storage}{SEPARATOR}{key}"


def options_of(row: StorageRow) -> Any:
    """Where the bucket is, as `storage.bucket.S3Options`."""
    bucket, prefix = rules.split(row.url) or ("", "")
    return _parts().options(bucket, prefix, row.endpoint or None, row.region, row.addressing)


async def download_url(platform: Platform, file: StoredFile, *, expires_at: int, base_url: str) -> str:
    """As `download_urls`."""
    [url] = await download_urls(platform, [file], expires_at=expires_at, base_url=base_url)
    return url


async def download_urls(
    platform: Platform, files: Sequence[StoredFile], *, expires_at: int, base_url: str
) -> list[str]:
    """The one way to stored files for somebody else: URLs that answer GET and `Range` until `expires_at`.

    `base_url` is this server's. Call it outside of transactions. Raises ConflictError if one of the files is no longer
    what was published, StorageUnavailable, which names no storage.
    """
    with errors_for_others():
        unpinned = await unchanged(platform, files)
        opened = {storage: await platform.stores.get(storage) for storage in {file.storage for file in unpinned}}

        def sign() -> list[str]:
            return [
                opened[file.storage].get_url(file.key, expires_at=expires_at, base_url=base_url) for file in unpinned
            ]

        # Thousands of signatures take seconds, in which the connections of agents must not stand still.
        return await asyncio.to_thread(sign)


async def open_file(platform: Platform, file: StoredFile) -> RangeReader:
    """To read a stored file for somebody else, where a URL will not do."""
    with errors_for_others():
        [file] = await unchanged(platform, [file])
        store = await platform.stores.get(file.storage)
        return await asyncio.to_thread(store.reader, file.key)


async def read_file(platform: Platform, file: StoredFile) -> bytes:
    """All of a small stored file, for somebody else."""
    reader = await open_file(platform, file)
    with errors_for_others():
        return await asyncio.to_thread(reader.read_at, 0, file.size)


@contextlib.contextmanager
def errors_for_others() -> Iterator[None]:
    """Hides from others than the owner which storage does not work, and why."""
    try:
        yield
    except OwnStorageError as error:
        raise StorageUnavailableError("The storage of the model's owner is unavailable. Try again later.") from error


async def unchanged(platform: Platform, files: Sequence[StoredFile]) -> list[StoredFile]:
    """The same files, without pins: where others can change them, the storage was just asked.

    If one has changed, its version fails. Call it outside of transactions. Raises as `download_url`.
    """
    pinned = [file for file in files if file.pin is not None]
    for storage in sorted({file.storage for file in pinned}):
        there = {file.key: file for file in pinned if file.storage == storage}
        with errors_for_others():
            store = cast("PinnedStore", await platform.stores.get(storage))
            changes = await store.changes(list(there))
        for key, what in changes.items():
            file = there[key]
            await versions.fail_changed(platform.database, file.version_id, file.path, what, now=platform.now())
            raise ConflictError(
                "The model's owner changed its files after this version was published. Ask them for a new version.",
                code=ErrorCode.FILES_CHANGED,
            )
    return [replace(file, pin=None) for file in files]


def bucket_check(options: Any, own: Any, *, origin: str, direct: bool) -> Any:
    """As `storage.bucket_check.BucketCheck`."""
    return _parts().check(options, own, origin=origin, direct=direct)


def require_s3() -> None:
    """Raises StorageUnavailable where the platform was installed without S3."""
    _parts()


def _parts() -> Any:
    """`storage.buckets.Buckets`, loaded when it is used: boto3 is slow to import, and not always installed."""
    try:
        return plugins.load(plugins.find("modelshare.parts")["buckets"])
    except PluginError as error:
        raise StorageUnavailableError(
            "This platform was installed without S3. Ask its operator to install `modelshare[s3]`."
        ) from error


async def _close(store: Any) -> None:
    if not store.direct:
        await store.close()
