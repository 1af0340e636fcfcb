"""`modelshare restore`: puts a backup into an empty data folder and, with PostgreSQL, into an empty database.

Everything is verified. The platform's secret comes last, without which no server starts; a restore that was killed is
repeated.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelshare import private_files
from modelshare.server import migrations
from modelshare.server.backup import layout, queries, snapshot
from modelshare.server.backup.layout import BackupError, Manifest, Progress, StoredFile
from modelshare.server.db import Database
from modelshare.server.installation import UNFINISHED_RESTORE, opened
from modelshare.server.settings import Settings
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import BlobNotFoundError

_NOT_COUNTED: Final = {UNFINISHED_RESTORE, "lost+found"}
"""Entries of an empty data folder."""


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: Manifest
    files: int
    damaged: list[str]
    """Keys of files of weights that the backup lacks, or whose content is wrong."""


async def restore(settings: Settings, source: Path, *, progress: Progress) -> Restored:
    """Raises BackupError, SettingsError; nothing is overwritten."""
    with layout.file_errors(source):
        manifest = await _checked(settings, source)
        with sole_restore(settings) as unfinished:
            return await _restore(settings, source, manifest, unfinished, progress)


async def restore_within(unfinished: Path, settings: Settings, source: Path, *, progress: Progress) -> Restored:
    """As `restore`, in the block of `sole_restore`."""
    return await _restore(settings, source, await _checked(settings, source), unfinished, progress)


@contextlib.contextmanager
def sole_restore(settings: Settings) -> Iterator[Path]:
    """The folder of the unfinished restore, in which no other process works. Raises BackupError if one does, or if the
    data folder has something else."""
    unfinished = settings.data_dir / UNFINISHED_RESTORE
    is_new = not unfinished.exists()
    if is_new:
        require_empty(settings.data_dir)
    private_files.folder(settings.data_dir)
    private_files.folder(unfinished)
    try:
        lock = private_files.lock(unfinished / "lock")
    except BlockingIOError:
        raise BackupError(
            f"Another restore into {settings.data_dir} is in progress. Wait until it is finished."
        ) from None
    try:
        yield unfinished
    except BaseException:
        if is_new and unfinished.exists() and [each.name for each in unfinished.iterdir()] == ["lock"]:
            shutil.rmtree(unfinished)  # nothing was downloaded or restored yet
        raise
    finally:
        os.close(lock)


async def _checked(settings: Settings, source: Path) -> Manifest:
    manifest = await asyncio.to_thread(layout.read_manifest, source)
    layout.read_weights(source)
    _require_fit(settings, source, manifest)
    return manifest


async def _restore(
    settings: Settings, source: Path, manifest: Manifest, unfinished: Path, progress: Progress
) -> Restored:
    async with opened(settings) as database:
        _require_kind(database, manifest)
        with layout.file_errors(settings.data_dir):
            async with snapshot.sole_user(database):
                marker = await _marker(settings, database, unfinished, manifest)
                damaged = await _restore_weights(settings, source, manifest, progress)
                await _restore_database(database, source, manifest, damaged, marker)
                _restore_keys(settings, source)
            count = len(layout.read_weights(source))
            await asyncio.to_thread(shutil.rmtree, unfinished)
            private_files.sync_folder(settings.data_dir)
    return Restored(manifest, count, damaged)


def _require_fit(settings: Settings, source: Path, manifest: Manifest) -> None:
    """Raises BackupError if this platform would not be that of the backup."""
    if manifest.revision > migrations.HEAD:
        raise BackupError(
            f"This backup was made by a newer modelshare, {manifest.version}. Install that version, and restore again."
        )
    given = settings.secret and settings.secret.get_secret_value().encode(errors="surrogateescape")
    if given and given != (source / layout.SIGNING).read_bytes():
        raise BackupError(f"`secret` is not that of this backup. Set it to the content of {source / layout.SIGNING}.")
    sealing = source / layout.SEALING
    if settings.secret_keys is not None and sealing.exists():
        keys = settings.secret_keys.get_secret_value().replace(",", " ").split()
        if not set(sealing.read_text().replace(",", " ").split()) <= set(keys):
            raise BackupError(f"`secret_keys` lacks keys of this backup. Add those in {sealing}.")
    is_bucket = (settings.storage_url or "file:").partition(":")[0] != "file"
    if manifest.weights == "copied" and is_bucket:
        raise BackupError("The weights of this backup were on a disk. Leave `storage_url` out, or set it to a folder.")
    if manifest.weights == "in_bucket" and not is_bucket:
        raise BackupError(
            f"The weights of this backup are in a bucket. Set `storage_url` as in {source / layout.SETTINGS}."
        )


def _require_kind(database: Database, manifest: Manifest) -> None:
    if database.is_sqlite != (manifest.database == "sqlite"):
        wanted = "an empty PostgreSQL database" if database.is_sqlite else "nothing, for SQLite"
        raise BackupError(f"This backup is of {manifest.database}. Set `database_url` to {wanted}.")


def require_empty(folder: Path) -> None:
    """Raises BackupError unless the data folder is empty or does not exist."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - _NOT_COUNTED):
        raise BackupError(f"{folder} is not empty. Set --data-dir to an empty or a new folder.")


async def _marker(settings: Settings, database: Database, unfinished: Path, manifest: Manifest) -> Path:
    """A file that names the backup that the database has. Raises BackupError if that is another one, or unknown."""
    marker = unfinished / "database"
    if not marker.exists():
        try:
            await snapshot.require_empty(database)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
    elif marker.read_bytes() != _identity(manifest):
        raise BackupError(
            f"Another backup was partly restored into {settings.data_dir}. Complete that restore, or choose an "
            "empty data folder and, with PostgreSQL, an empty database."
        )
    (unfinished / "begun").touch()
    return marker


def _identity(manifest: Manifest) -> bytes:
    """Which backup the database is of; two backups never have equal ones, since each has its own hold."""
    return manifest.parts[layout.DATABASE[manifest.database]].sha256.encode()


async def _restore_weights(settings: Settings, source: Path, manifest: Manifest, progress: Progress) -> list[str]:
    """Returns the keys of files that are missing or damaged."""
    if manifest.weights != "copied":
        return []
    store = open_store(settings.storage_url, data_dir=settings.data_dir, secret=(source / layout.SIGNING).read_bytes())
    assert isinstance(store, FolderStore)  # noqa: S101 - `_require_fit`
    files, damaged = layout.read_weights(source), []
    scratch = settings.data_dir / UNFINISHED_RESTORE / "copying"
    progress.started(sum(file.size for file in files))
    for file in files:
        if not await _restore_file(store, source / layout.WEIGHTS / file.key, scratch, file):
            damaged.append(file.key)
        progress.moved(file.size)
    return damaged


async def _restore_file(store: FolderStore, copy: Path, scratch: Path, file: StoredFile) -> bool:
    """Returns whether the content is right. What is right already stays: the platform's weights may have survived."""
    with contextlib.suppress(BlobNotFoundError):
        if await store.digest(file.key) == (file.sha256, file.size):
            return True
    if not copy.is_file() or copy.stat().st_size != file.size:
        return False
    scratch.unlink(missing_ok=True)
    try:
        scratch.hardlink_to(copy)
    except OSError:  # another file system, or one without hard links
        await asyncio.to_thread(shutil.copyfile, copy, scratch)
    await store.put_file(file.key, scratch)
    if (await store.digest(file.key))[0] == file.sha256:
        return True
    await store.delete(file.key)
    return False


async def _restore_database(
    database: Database, source: Path, manifest: Manifest, damaged: list[str], marker: Path
) -> None:
    """`marker` exists from the moment when the database is no longer empty."""
    part = source / layout.DATABASE[manifest.database]
    if not database.is_sqlite:
        if not marker.exists():
            await snapshot.load_dump(database, part)
            private_files.replace(marker, _identity(manifest))
        await _bring_up_to_date(database, manifest, damaged)
        return
    path = Path(database.url.database or "")
    staged = path.with_name(f"{path.name}.restoring")
    staged.unlink(missing_ok=True)
    private_files.folder(path.parent)
    private_files.touch(staged)
    await asyncio.to_thread(shutil.copyfile, part, staged)
    copy = Database(f"sqlite+aiosqlite:///{staged}")
    try:
        await _bring_up_to_date(copy, manifest, damaged)
    finally:
        await copy.close()
    private_files.replace(marker, _identity(manifest))
    staged.rename(path)
    private_files.sync_folder(path.parent)


async def _bring_up_to_date(database: Database, manifest: Manifest, damaged: list[str]) -> None:
    await migrations.upgrade(database)
    async with database.write() as session:
        await queries.end_holds(session)
        if manifest.weights != "in_bucket":
            await queries.expire_uploads(session)
        await queries.mark_damaged(session, damaged)


def _restore_keys(settings: Settings, source: Path) -> None:
    given = {layout.SEALING: settings.secret_keys, layout.SIGNING: settings.secret}
    for name, setting in given.items():
        if setting is None and (source / name).exists():
            private_files.replace(settings.data_dir / name, (source / name).read_bytes())
