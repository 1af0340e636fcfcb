"""The store that the settings name: the scheme of its URL is the name of a plug-in."""

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
    """The platform's folder; `data_dir / "scratch"` is for copies."""
    secret: bytes
    """Signs links that the platform itself answers."""
    clock: Callable[[], float]
    """Unix seconds, by which signed links expire."""


class StorageType(Protocol):
    """What an entry point of `modelshare.storages` names. See docs/plugins.md."""

    def __call__(self, url: str, context: StorageContext) -> BlobStore:
        """Raises StorageSettingError for a URL that names no store."""
        ...


class Stores(Protocol):
    """The store of every storage."""

    async def get(self, storage: str) -> BlobStore:
        """`storage`: PLATFORM or a project's storage. Call it outside of transactions. Raises StorageUnavailable."""
        ...


def open_store(url: str | None, *, data_dir: Path, secret: bytes, clock: Callable[[], float] = time.time) -> BlobStore:
    """`url`: None for a folder in `data_dir`. Raises StorageSettingError."""
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
