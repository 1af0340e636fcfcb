"""Backups in a bucket: made in the data folder, as hard links, and sent from there; fetched into it to be restored.

The manifest is sent last: without it there is no backup.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from modelshare import private_files
from modelshare.server.backup import layout, making, restoring
from modelshare.server.backup.layout import BackupError, Progress
from modelshare.server.settings import Settings
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import BlobNotFoundError

SCHEME: Final = "s3://"


async def make(settings: Settings, url: str, *, with_weights: bool, progress: Progress) -> making.Made:
    """Backs up to an S3 prefix. If it is interrupted, the next run sends only what is not there. Raises as `making`."""
    store = _open(settings, url)
    with contextlib.suppress(BlobNotFoundError):
        await asyncio.to_thread(store.reader, layout.MANIFEST)
        raise BackupError("There is a complete backup at this URL. Choose another prefix.")
    with layout.file_errors(settings.data_dir):
        return await _make(settings, store, with_weights=with_weights, progress=progress)


async def _make(settings: Settings, store: BlobStore, *, with_weights: bool, progress: Progress) -> making.Made:
    async with _scratch(settings.data_dir) as folder:
        made = await making.make_in(settings, folder, with_weights=with_weights, progress=making.NoProgress())
        files = layout.read_weights(folder) if made.weights == "copied" else []
        progress.started(sum(file.size for file in files))
        for file in files:
            name = f"{layout.WEIGHTS}/{file.key}"
            if file.key not in made.damaged and not await _is_there(store, name, file.size):
                await store.put_file(name, folder / name)
            progress.moved(file.size)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == layout.MANIFEST):
            if path.is_file():
                await store.put_file(path.name, path)
    return made


async def restore(settings: Settings, url: str, *, progress: Progress) -> restoring.Restored:
    """As `restoring.restore`. The data folder needs room for the whole backup."""
    with layout.file_errors(settings.data_dir):
        return await _restore(settings, url, progress)


async def _restore(settings: Settings, url: str, progress: Progress) -> restoring.Restored:
    store = _open(settings, url)
    with restoring.sole_restore(settings) as unfinished:
        folder = unfinished / "backup"
        private_files.folder(folder)
        try:
            await _fetch(store, layout.MANIFEST, folder)
        except BlobNotFoundError:
            await asyncio.to_thread(shutil.rmtree, unfinished)
            raise BackupError(f"There is no complete backup at {url}. Choose another.") from None
        for name in layout.parse_manifest(folder).parts:
            with contextlib.suppress(BlobNotFoundError):  # that it is missing is said below
                await _fetch(store, name, folder)
        manifest = await asyncio.to_thread(layout.read_manifest, folder)
        if manifest.weights == "copied":
            for file in layout.read_weights(folder):
                with contextlib.suppress(BlobNotFoundError):  # it is reported as missing
                    await _fetch(store, f"{layout.WEIGHTS}/{file.key}", folder, file.size)
        return await restoring.restore_within(unfinished, settings, folder, progress=progress)


def _open(settings: Settings, url: str) -> BlobStore:
    return open_store(url, data_dir=settings.data_dir, secret=b"")  # a bucket's links are not signed with it


async def _is_there(store: BlobStore, name: str, size: int) -> bool:
    with contextlib.suppress(BlobNotFoundError):
        return (await asyncio.to_thread(store.reader, name)).size == size
    return False


async def _fetch(store: BlobStore, name: str, folder: Path, size: int | None = None) -> None:
    """Downloads a file, unless an earlier run has."""
    place = folder / name
    if size is not None and place.exists() and place.stat().st_size == size:
        return
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = folder / "fetching"
    with fresh.open("wb") as written:

        def write(chunk: bytes) -> None:
            written.write(chunk)

        await store.digest(name, also=write)
    fresh.rename(place)


@contextlib.asynccontextmanager
async def _scratch(data_dir: Path) -> AsyncIterator[Path]:
    try:
        lock = private_files.lock(data_dir / "backup.lock")
    except BlockingIOError:
        raise BackupError("Another backup to a bucket is being made. Wait until it is finished.") from None
    folder = data_dir / "scratch" / "backup"
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        os.close(lock)
