"""Opens the configured store: the scheme of its URL is the name of a plug-in."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from modelshare import plugins
from modelshare.plugins import PluginError
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage_errors import StorageSettingError

GROUP: Final = "modelshare.storages"
PLATFORM: Final = "platform"
"""The name of the platform's own storage; any other storage is a project's and named by its id."""


@dataclass(frozen=True, slots=True)
class StorageContext:
    """What a store may need besides its URL."""

    data_dir: Path
    """The platform's data folder; use `data_dir / "scratch"` for temporary copies."""
    secret: bytes
    """Signs download links that the platform itself serves."""
    clock: Callable[[], float]
    """Returns Unix seconds; decides when signed links expire."""


class StorageType(Protocol):
    """The signature of an entry point of `modelshare.storages`. See docs/plugins.md."""

    def __call__(self, url: str, context: StorageContext) -> BlobStore:
        """Raises StorageSettingError for an invalid URL."""
        ...


class Stores(Protocol):
    """The store of every storage."""

    async def get(self, storage: str) -> BlobStore:
        """`storage`: PLATFORM or a project's storage. Call it outside of transactions. Raises StorageUnavailable."""
        ...


def open_store(url: str | None, *, data_dir: Path, secret: bytes, clock: Callable[[], float] = time.time) -> BlobStore:
    """Opens the store at `url`, or in a folder in `data_dir` if that is None. Raises StorageSettingError."""
    scheme, _, rest = (url or "file:").partition(":")
    found = plugins.find(GROUP)
    if scheme not in found or (url is not None and not rest.startswith("//")):
        names = ", ".join(f"{name}://" for name in sorted(found))
        raise StorageSettingError(
            f"It must begin with one of {names}, such as s3://BUCKET/PREFIX. Install the package of any other storage."
        )
    try:
        open_: StorageType = plugins.load(found[scheme])
    except PluginError as error:
        raise StorageSettingError(str(error)) from error
    return open_(url or "file:", StorageContext(data_dir, secret, clock))
