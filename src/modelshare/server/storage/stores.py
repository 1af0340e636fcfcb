"""The store that the settings name."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path

from modelshare.server.storage.base import BlobStore, DirectStore, StorageSettingError
from modelshare.server.storage.local import FolderStore


def open_store(url: str | None, *, data_dir: Path, secret: bytes, clock: Callable[[], float] = time.time) -> BlobStore:
    """`url`: None for a folder in `data_dir`, or `s3://bucket/prefix?endpoint=…` (see bucket.py).

    `secret` signs the folder's download links, which expire by `clock`. Raises StorageSettingError.
    """
    if url is None:
        return FolderStore(data_dir / "storage", secret, clock=clock)
    return _open_bucket(url, data_dir / "scratch", clock)


def _open_bucket(url: str, scratch: Path, clock: Callable[[], float]) -> DirectStore:
    # By name, because boto3 takes half a second to import and is only installed with the extra `s3`.
    try:
        bucket = importlib.import_module("modelshare.server.storage.bucket")
        s3 = importlib.import_module("modelshare.server.storage.s3")
    except ModuleNotFoundError as error:
        raise StorageSettingError(
            "Storage in a bucket needs boto3. Run `pip install 'modelshare[server,s3]'`."
        ) from error
    store: DirectStore = s3.S3Store(bucket.S3Options.parse(url), scratch=scratch, clock=clock)
    return store
