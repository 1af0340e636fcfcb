"""`modelshare doctor`: one function per question, whose findings say what to do. Only a probe is written, and deleted.

The server may run or be stopped. What needs the database or the storage is left out where that is away.
"""

import hashlib
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp
from sqlalchemy.exc import DBAPIError

from modelshare import private_files
from modelshare.server import installation, migrations, secret
from modelshare.server.clock import SKEW_SECONDS, DatabaseClock
from modelshare.server.db import Database
from modelshare.server.doctor import queries
from modelshare.server.installation import opened
from modelshare.server.migrations.rules import Fit, fit_of
from modelshare.server.outages import DRIVER_ERRORS
from modelshare.server.public_url import is_loopback
from modelshare.server.registry.storages import credentials
from modelshare.server.registry.storages.queries import with_credentials
from modelshare.server.sealing import Keyring, SealedError
from modelshare.server.settings import Settings, SettingsError
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage.local import KEEP_FREE, FolderStore
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import BlobNotFoundError, StorageError
from modelshare.wire.units import scaled

_SAMPLE: Final = 20
"""Files whose digests are computed, unless all are."""
_SAMPLE_BYTES: Final = 1 << 30
"""Most bytes that are read for them."""
_SCARCE: Final = 4 << 30
"""Bytes of free space below which a warning is due."""
_ANSWER_SECONDS: Final = 5.0
_NAMED: Final = 5
"""Examples that a finding gives."""
_BYTES: Final = (" B", " kB", " MB", " GB", " TB", " PB")


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    level: Level
    message: str
    remedy: str | None = None
    """What to do; None where nothing is to be done."""


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, message, remedy)


def error(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, Level.ERROR, message, remedy)


async def examine(settings: Settings, *, every_file: bool) -> AsyncIterator[Finding]:
    """Yields what is found, check by check. `every_file`: all weights are read, not a sample."""
    yield check_settings(settings)
    folder = check_folder(settings)
    yield folder
    yield await check_reachable(settings)
    if folder.level is Level.ERROR:
        return
    yield check_disk(settings)
    store = None
    try:
        store = _open_store(settings)
        yield await check_storage(settings, store)
    except StorageError as problem:
        yield error("storage", str(problem), "Correct the setting `storage_url`, or mount the folder.")
    try:
        async with opened(settings) as database:
            found = await check_schema(database)
            yield found
            if found.level is not Level.OK:
                return
            for name, check in _OF_DATABASE.items():
                yield await _guarded(name, check(settings, database))
            if store is not None:
                yield await _guarded("weights", check_weights(database, store, every_file=every_file))
    except SettingsError as problem:
        yield error("database", str(problem), "Then run `modelshare doctor` again: the rest was not examined.")


def _open_store(settings: Settings) -> BlobStore:
    """Raises StorageError where a server would create a folder: it may only not be mounted."""
    root = _storage_folder(settings)
    if root is not None and not root.is_dir():
        raise StorageError(f"The folder {root} does not exist.")
    no_secret = secrets.token_bytes(secret.LENGTH)  # it would sign links, and creating the real one is for the server
    return open_store(settings.storage_url, data_dir=settings.data_dir, secret=no_secret)


def _storage_folder(settings: Settings) -> Path | None:
    """None for a bucket."""
    url = urlsplit(settings.storage_url or "file:")
    if url.scheme != "file":
        return None
    return Path(unquote(url.path)) if url.path else settings.data_dir / "storage"


async def _guarded(name: str, check: Awaitable[Finding]) -> Finding:
    """A check that fails is a finding too."""
    try:
        return await check
    except (SettingsError, SealedError, StorageError) as problem:
        return error(name, str(problem), "Correct this, and run `modelshare doctor` again.")
    except (OSError, DBAPIError, *DRIVER_ERRORS) as problem:
        cause = str(getattr(problem, "orig", None) or problem).splitlines()[0]
        remedy = "If the database or a disk is damaged, restore a backup with `modelshare restore`."
        return error(name, f"This could not be examined: {cause}.", remedy)


def check_settings(settings: Settings) -> Finding:
    if settings.public_url is None and not is_loopback(settings.host):
        return warning(
            "settings",
            "`public_url` is not set: links contain this machine's addresses.",
            "Set `public_url` to the URL at which clients reach the platform.",
        )
    return ok("settings", "The settings are valid.")


def check_folder(settings: Settings) -> Finding:
    """The data folder, and the rights on what is secret."""
    folder = settings.data_dir
    if not folder.is_dir():
        return error("folder", f"{folder} does not exist.", "Set --data-dir to the server's data folder.")
    try:
        installation.require_finished_restore(settings)
    except SettingsError as problem:
        return error("folder", str(problem), "Complete it before you start the server.")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return error("folder", f"{folder} cannot be written.", "Give its rights to the account that runs the server.")
    private = [folder / name for name in (secret.path(folder).name, "sealing.key", "modelshare.db")]
    exposed = [path for path in private if path.exists() and path.stat().st_mode & private_files.UMASK]
    if exposed:
        names = " ".join(map(str, exposed))
        return error("folder", f"Other users of this machine can read {names}.", f"Run `chmod 600 {names}`.")
    return ok("folder", f"{folder} can be written, and only its owner can read the secrets.")


def check_disk(settings: Settings) -> Finding:
    """The disk of the data folder, and that of the weights."""
    storage = _storage_folder(settings)
    folders = [settings.data_dir, *([storage] if storage is not None and storage.is_dir() else [])]
    usage, folder = min(((shutil.disk_usage(folder), folder) for folder in folders), key=lambda found: found[0].free)
    said = f"{scaled(usage.free, _BYTES)} of {scaled(usage.total, _BYTES)} are free on the disk of {folder}."
    if usage.free < KEEP_FREE:
        return error("disk", said, "Free some space at once: uploads are refused, and the database may fail.")
    if usage.free < _SCARCE:
        return warning("disk", said, "Free some space, or move the data to a larger disk.")
    return ok("disk", said)


async def check_reachable(settings: Settings) -> Finding:
    """Whether the platform answers at its URL, as far as that can be told from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    url = settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS)) as http,
            http.get(f"{url.rstrip('/')}/readyz", allow_redirects=False) as answer,
        ):
            if answer.status == HTTPStatus.OK:
                return ok("reachable", f"The platform answers at {url}, and is ready.")
            said = f"{url} answers with status {answer.status}."
            return error("reachable", said, "Read the server's log, and check the proxy in front of it.")
    except (aiohttp.ClientError, TimeoutError):
        return warning(
            "reachable",
            f"Nothing answers at {url} from this machine.",
            "Start the server (`modelshare serve`) if it should run; otherwise check `public_url`, the proxy and DNS.",
        )


async def check_storage(settings: Settings, store: BlobStore) -> Finding:
    """Writes, reads and deletes a small file."""
    content, key = secrets.token_bytes(4096), f"doctor/{secrets.token_hex(8)}"
    try:
        with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".doctor-") as folder:
            (file := Path(folder, "probe")).write_bytes(content)
            await store.put_file(key, file)
        found, _ = await store.digest(key)
        await store.delete_prefix("doctor")
    except (StorageError, OSError) as problem:
        remedy = "Check the rights of the server's account there, free space, and the setting `storage_url`."
        return error("storage", f"The storage does not work: {problem}", remedy)
    if found != hashlib.sha256(content).hexdigest():
        return error("storage", "The storage returns other bytes than were written.", "Check the disk or the bucket.")
    return ok("storage", "The storage can be written, read and deleted from.")


async def check_schema(database: Database) -> Finding:
    if database.is_sqlite and not Path(database.url.database or "").exists():
        return error("database", "There is no database yet.", "Start the server once, or restore a backup.")
    found = await migrations.schema_of(database)
    said = f"The database is at revision {found.revision or 'none'}, and this modelshare knows {migrations.HEAD}."
    match fit_of(found, migrations.HEAD):
        case Fit.CURRENT | Fit.NEWER:
            return ok("database", f"The database can be reached, and is at revision {found.revision}.")
        case Fit.TOO_NEW:
            return error("database", said, "Install the version that upgraded it, or a newer one.")
    return error("database", f"{said} The rest was not examined.", "Run `modelshare db upgrade`.")


async def check_integrity(_: Settings, database: Database) -> Finding:
    if not database.is_sqlite:
        return ok("integrity", "PostgreSQL checks its own files; see the `data_checksums` of its server.")
    async with database.read() as session:
        damage = await queries.damage_of_sqlite(session)
    if damage:
        return error(
            "integrity", f"The database is damaged: {_some(damage)}.", "Restore a backup with `modelshare restore`."
        )
    return ok("integrity", "The database's file is intact, and all references lead somewhere.")


async def check_secret(settings: Settings, database: Database) -> Finding:
    await installation.require_secret(settings, database)
    if settings.secret is None and not secret.path(settings.data_dir).exists():
        return ok("secret", "There is no secret yet; the server creates one.")
    if not await installation.fits(settings, database):
        return error(
            "secret",
            "The secret is not the one that this database was used with.",
            f"Restore {secret.path(settings.data_dir)}, or set `secret` to the right one.",
        )
    keyring = Keyring(settings)
    async with database.read() as session:
        rows = await with_credentials(session)
    for row in rows:
        credentials.unseal(keyring, row)
    return ok("secret", f"The secret fits the database, and {len(rows)} encrypted credential(s) can be decrypted.")


async def check_clock(_: Settings, database: Database) -> Finding:
    clock = DatabaseClock(database)
    await clock.check()
    async with database.read() as session:
        newest = await queries.newest_change(session)
    ahead = round(clock.skew, 1)
    if abs(ahead) > SKEW_SECONDS:
        return error(
            "clock",
            f"This machine's clock is {abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} the database's.",
            "Synchronize the clocks of both machines with NTP.",
        )
    if newest is not None and newest > clock() + SKEW_SECONDS:
        late = round(newest - clock())
        return error(
            "clock",
            f"The newest audit entry is from {late} s in the future: the clock was set back.",
            "Synchronize this machine's clock with NTP.",
        )
    return ok("clock", "This machine's clock agrees with the database's.")


async def check_catalog(_: Settings, database: Database) -> Finding:
    async with database.read() as session:
        wrong = await queries.contradictions(session)
        stale = await queries.stale_entries(session)
    if wrong:
        return error(
            "catalog",
            f"The counts or roles of {len(wrong)} model(s) contradict their endpoints: {_some(wrong)}.",
            "Activate or deactivate one endpoint of each, which counts again; and report this as a bug.",
        )
    if stale:
        names = [each.partition(":")[0] for each in stale]
        return error(
            "catalog",
            f"{len(stale)} catalog entries differ from their models: {_some(names)}.",
            "Edit the description of each, which writes its entry again; and report this as a bug.",
        )
    return ok("catalog", "Every catalog entry and count agrees with its model.")


async def check_jobs(_: Settings, database: Database) -> Finding:
    async with database.read() as session:
        failed = await queries.failed_jobs(session)
    if failed:
        return warning("jobs", f"{failed} background job(s) failed.", "Run `modelshare jobs list`, then `jobs retry`.")
    return ok("jobs", "No background job has failed.")


async def check_weights(database: Database, store: BlobStore, *, every_file: bool) -> Finding:
    """Compares files with their digests: all, or as many as a sample allows. A folder's files must all be there."""
    async with database.read() as session:
        files = await queries.stored_files(session)
    sample, wrong = _sample(files, every_file=every_file), []
    for key, size, sha256 in files:
        try:
            is_right = not isinstance(store, FolderStore) or store.path(key).stat().st_size == size
            if is_right and key in sample:
                is_right = await store.digest(key) == (sha256, size)
        except BlobNotFoundError:
            is_right = False
        if not is_right:
            wrong.append(key)
    if not wrong:
        read = "all were read" if len(sample) == len(files) else f"{len(sample)} were read, `--all` reads all"
        return ok("weights", f"{len(files)} file(s) of weights are as they were published ({read}).")
    async with database.read() as session:
        names = await queries.models_with(session, wrong)
    return error(
        "weights",
        f"{len(wrong)} file(s) are missing or damaged, of: {_some(names) or 'no version'}.",
        "Restore the files from a backup, or have the owners push the models again after `models revalidate`.",
    )


def _sample(files: Sequence[tuple[str, int, str]], *, every_file: bool) -> set[str]:
    """Keys of files to read. Another time it is another sample."""
    if every_file:
        return {key for key, _, _ in files}
    chosen, left = set[str](), _SAMPLE_BYTES
    for key, size, _ in random.sample(files, min(len(files), _SAMPLE)):
        if size <= left:
            chosen.add(key)
            left -= size
    return chosen


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


_OF_DATABASE: Final[Mapping[str, Callable[[Settings, Database], Awaitable[Finding]]]] = {
    "integrity": check_integrity,
    "secret": check_secret,
    "clock": check_clock,
    "catalog": check_catalog,
    "jobs": check_jobs,
}
