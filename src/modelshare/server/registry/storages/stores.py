"""The stores of all storages: the platform's own, and those of projects, opened when they are first needed."""

from modelshare.server.http import Platform
from modelshare.server.registry.service import StoredFile
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage.stores import PLATFORM
from modelshare.server.storage_errors import StorageUnavailableError


class ProjectStores:
    """The only place that opens the stores of projects and sees their credentials."""

    def __init__(self, platform: BlobStore) -> None:
        self._platform = platform

    async def get(self, storage: str) -> BlobStore:
        """`storage`: PLATFORM or a project's storage. Call it outside of transactions. Raises StorageUnavailable."""
        if storage == PLATFORM:
            return self._platform
        raise StorageUnavailableError("This storage is no longer set up.")


async def download_url(platform: Platform, file: StoredFile, *, expires_at: int, base_url: str) -> str:
    """The one way to a stored file for somebody else: a URL that answers GET and `Range` until `expires_at`.

    `base_url` is this server's. Call it outside of transactions. Raises StorageUnavailable.
    """
    store = await platform.stores.get(file.storage)
    return store.get_url(file.key, expires_at=expires_at, base_url=base_url)
