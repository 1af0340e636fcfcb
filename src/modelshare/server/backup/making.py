"""`modelshare backup`: first the database at one moment, then the weights that it names, then the keys.

Meanwhile no process deletes bytes from storage. The server may run or be stopped.
"""

import asyncio
import contextlib
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import modelshare
from modelshare import private_files
from modelshare.server import installation, migrations
from modelshare.server.background import Loop
from modelshare.server.backup import layout, snapshot
from modelshare.server.backup.layout import BackupError, Manifest, Progress, StoredFile, StoredFiles
from modelshare.server.clock import DatabaseClock
from modelshare.server.db import Database
from modelshare.server.installation import opened
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.settings import Settings
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import BlobNotFoundError

_HOLD_SECONDS: Final = 300
"""How long deletions are held off; after a third of it, that is prolonged."""
_HELD_SINCE: Final = "0031"
"""The revision from which deletions can be held off."""
_NOT_KEPT: Final = {"data_dir", "database_url", "secret", "secret_keys"}
"""Settings that are not written to the backup: where it was, and secrets."""


@dataclass(frozen=True, slots=True)
class Made:
    folder: Path
    weights: str
    files: int
    bytes: int
    linked: bool
    """Whether weights are hard links, and so on the same file system."""
    damaged: list[str]


class NoProgress(Progress):
    def started(self, total: int) -> None: ...

    def moved(self, size: int) -> None: ...


async def make(settings: Settings, target: Path, *, with_weights: bool, progress: Progress) -> Made:
    """Backs up the platform to `target`, which must be empty or not exist. Raises BackupError, SettingsError.

    If a run is killed, the next one to the same target goes on with the weights.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{target} exists and is not empty. Choose another folder for this backup.")
    if target.is_mount():
        raise BackupError(f"{target} is a mount point. Choose a folder below it, such as {target / 'backup'}.")
    if target.is_relative_to(settings.data_dir.absolute()):
        raise BackupError(f"{target} is in the data folder. Choose a folder elsewhere, if possible on another disk.")
    return await make_in(settings, target, with_weights=with_weights, progress=progress)


async def make_in(settings: Settings, target: Path, *, with_weights: bool, progress: Progress) -> Made:
    """As `make`, in any folder."""
    async with opened(settings) as database:
        if database.is_sqlite and not Path(database.url.database or "").exists():
            raise BackupError(
                f"There is no database in {settings.data_dir}. Set --data-dir to the server's data folder."
            )
        await installation.require_secret(settings, database)
        with layout.file_errors(target), _unfinished(target) as folder:
            async with _deletions_held(database):
                made = await _write(settings, database, folder, with_weights=with_weights, progress=progress)
            (folder / "lock").unlink()
            private_files.sync_folder(folder)
            folder.rename(target)
            private_files.sync_folder(target.parent)
    return made(target)


async def _write(
    settings: Settings, database: Database, folder: Path, *, with_weights: bool, progress: Progress
) -> Callable[[Path], Made]:
    (folder / layout.MANIFEST).unlink(missing_ok=True)
    kind: layout.Kind = "sqlite" if database.is_sqlite else "postgresql"
    made_at = DatabaseClock(database)
    await made_at.check()
    found = await snapshot.take(database, folder / layout.DATABASE[kind])
    store = open_store(settings.storage_url, data_dir=settings.data_dir, secret=settings.signing_secret())
    copies = _Copies(folder / layout.WEIGHTS, progress)
    if isinstance(store, FolderStore) and with_weights:
        await copies.make(store, found.weights)
    names = [layout.DATABASE[kind], *_write_small_parts(settings, folder, found.weights)]
    manifest = Manifest(
        version=modelshare.__version__,
        revision=found.revision,
        made_at=int(made_at()),
        database=kind,
        weights=_where(store, with_weights=with_weights),
        damaged=copies.damaged,
        parts={name: await asyncio.to_thread(layout.part_of, folder / name) for name in names},
    )
    private_files.replace(folder / layout.MANIFEST, manifest.model_dump_json(indent=2).encode())
    size = sum(file.size for file in found.weights)
    return partial(
        Made,
        weights=manifest.weights,
        files=len(found.weights),
        bytes=size,
        linked=copies.linked,
        damaged=copies.damaged,
    )


def _where(store: BlobStore, *, with_weights: bool) -> str:
    if not isinstance(store, FolderStore):
        return "in_bucket"
    return "copied" if with_weights else "left_out"


def _write_small_parts(settings: Settings, folder: Path, weights: list[StoredFile]) -> Iterator[str]:
    """Writes the keys, the settings and the list of weights; yields their names."""
    parts = {
        layout.SIGNING: settings.signing_secret(),
        layout.SEALING: _sealing_keys(settings),
        layout.SETTINGS: _as_toml(settings).encode(),
        layout.TIERS: settings.tiers_file.read_bytes() if settings.tiers_file is not None else None,
        layout.WEIGHTS_LIST: StoredFiles(files=weights).model_dump_json().encode(),
    }
    for name, content in parts.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            private_files.replace(folder / name, content)
            yield name


def _sealing_keys(settings: Settings) -> bytes | None:
    if settings.secret_keys is not None:
        return settings.secret_keys.get_secret_value().encode()
    file = settings.data_dir / layout.SEALING
    return file.read_bytes() if file.exists() else None


def _as_toml(settings: Settings) -> str:
    values = settings.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_KEPT)
    # A string, number or list of them reads the same in JSON and TOML.
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


class _Copies:
    """The weights in a backup: hard links where they are on the same file system, else copies whose digest is right."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder = folder
        self._progress = progress
        self.linked = False
        self.damaged: list[str] = []

    async def make(self, store: FolderStore, files: list[StoredFile]) -> None:
        private_files.folder(self._folder)
        self._progress.started(sum(file.size for file in files))
        await asyncio.to_thread(self._remove_all_but, {self._folder / file.key for file in files})
        for file in files:
            if not await self._add(store, file):
                self.damaged.append(file.key)
            self._progress.moved(file.size)

    async def _add(self, store: FolderStore, file: StoredFile) -> bool:
        """Returns whether the file is there with the right content, as far as it was read."""
        place = self._folder / file.key
        with contextlib.suppress(FileNotFoundError):
            if place.stat().st_size == file.size:  # of an earlier run that did not finish
                return True
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            source = await asyncio.to_thread(store.path, file.key)
            if source.stat().st_size != file.size:
                return False
            try:
                place.hardlink_to(source)
            except OSError:  # another file system, or one without hard links
                return await self._copy(store, file, place)
        except BlobNotFoundError:
            return False
        self.linked = True
        return True

    async def _copy(self, store: FolderStore, file: StoredFile, place: Path) -> bool:
        fresh = self._folder.with_name("copying")
        private_files.touch(fresh)
        with fresh.open("wb") as written:

            def write(chunk: bytes) -> None:
                written.write(chunk)

            sha256, _ = await store.digest(file.key, also=write)
            await asyncio.to_thread(os.fsync, written.fileno())
        if sha256 != file.sha256:
            fresh.unlink()
            return False
        fresh.rename(place)
        return True

    def _remove_all_but(self, wanted: set[Path]) -> None:
        """Removes weights of an earlier, unfinished run that were deleted since."""
        for folder, _, names in os.walk(self._folder):
            for name in names:
                if (path := Path(folder, name)) not in wanted:
                    path.unlink()


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """The folder that the backup is written to before it is complete."""
    folder = target.with_name(f".{target.name}.unfinished")
    private_files.folder(folder)
    try:
        lock = private_files.lock(folder / "lock")
    except BlockingIOError:
        raise BackupError(f"Another backup to {target} is being made. Wait until it is finished.") from None
    try:
        yield folder
    finally:
        os.close(lock)


@contextlib.asynccontextmanager
async def _deletions_held(database: Database) -> AsyncIterator[None]:
    """Has no process delete bytes from storage; if this one is killed, for some minutes."""
    revision = (await migrations.schema_of(database)).revision
    if revision is None or revision < _HELD_SINCE:
        yield
        return
    hold, clock = uuid.uuid4(), DatabaseClock(database)

    async def prolong() -> None:
        await clock.check()
        async with database.write() as session:
            await blobs.hold_deletions(session, hold, until=int(clock()) + _HOLD_SECONDS)

    await prolong()
    loop = Loop("hold off deletions", prolong, every=_HOLD_SECONDS / 3)
    await loop.start()
    try:
        yield
    finally:
        await loop.stop()
        async with database.write() as session:
            await blobs.end_hold(session, hold, now=int(clock()))
