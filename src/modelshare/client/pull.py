"""Pull: downloads a version of one's own model into a folder.

Bytes gather in a hidden folder inside; a file gets its name once its digest is verified. An interrupted pull resumes
there, and nothing but the model remains at the end.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelshare import private_files
from modelshare.client.client import Client
from modelshare.client.errors import PullError
from modelshare.client.polling import poll
from modelshare.client.range_request import RangeRequests, storage_client
from modelshare.client.verify import UNFINISHED, has_content
from modelshare.transfer.connections import CONNECTIONS
from modelshare.transfer.download import Downloader
from modelshare.transfer.partfile import PartFile
from modelshare.transfer.ranges import DownloadError
from modelshare.transfer.signed_urls import SignedUrls
from modelshare.transfer.tasks import in_thread, run_all
from modelshare.wire.agents import GrantFile
from modelshare.wire.models import Download
from modelshare.wire.text import PLAIN_PATH, visible
from modelshare.wire.units import size

_BLOCK: Final = 512
"""stat(2): st_blocks counts units of 512 bytes."""


class PullProgress:
    """Receives the progress of a pull. Override the methods you need; they may be called from several threads."""

    def started(self, total: int) -> None:
        """Called before anything is downloaded, with the size of all files."""

    def moved(self, size: int) -> None:
        """`size` more bytes are there; negative if bytes turned out to be wrong."""


@dataclass(frozen=True, slots=True)
class Pulled:
    version: str
    manifest_digest: str
    files: int
    kept: int
    """Files that were there already."""
    bytes_fetched: int


def pull_model(
    client: Client,
    model_id: str,
    version: str,
    folder: Path | str,
    *,
    overwrite: bool = False,
    progress: PullProgress | None = None,
) -> Pulled:
    """Like `pull`, for code without an event loop."""
    return asyncio.run(pull(client, model_id, version, folder, overwrite=overwrite, progress=progress))


async def pull(
    client: Client,
    model_id: str,
    version: str,
    folder: Path | str,
    *,
    overwrite: bool = False,
    progress: PullProgress | None = None,
) -> Pulled:
    """Downloads a ready version of one of the project's models into `folder`, every file verified.

    Only what is missing or differs is downloaded, so that it resumes what was interrupted; other files are kept. Files
    in the model's places that do not look like an earlier pull are only replaced with `overwrite`. Raises PullError or
    another ModelshareError.
    """

    found = await asyncio.to_thread(_ask, client, model_id, version)
    first = [found]

    async def ask() -> Download:
        return first.pop() if first else await asyncio.to_thread(_ask, client, model_id, version)

    target = _Folder(Path(folder), found.files)
    progress = progress or PullProgress()
    progress.started(sum(file.size for file in found.files))
    try:
        with target.locked():
            async with storage_client() as http:
                downloader = Downloader(RangeRequests(http))
                try:
                    missing, fetched = await _fetch(downloader, target, SignedUrls(ask), progress, overwrite=overwrite)
                finally:
                    downloader.close()
            target.clean()
    except DownloadError as error:
        raise PullError(str(error)) from error
    except OSError as error:
        raise PullError(f"Cannot write {error.filename or folder}: {error.strerror or error}.") from error
    return Pulled(version, found.manifest_digest, len(found.files), len(found.files) - missing, fetched)


def _ask(client: Client, model_id: str, version: str) -> Download:
    return poll(lambda: client.models.download(model_id, version), lambda _: True)


async def _fetch(
    downloader: Downloader, target: "_Folder", urls: SignedUrls, progress: PullProgress, *, overwrite: bool
) -> tuple[int, int]:
    """Downloads what is missing; returns the number of those files, and how many bytes were downloaded now."""
    missing: dict[str, list[GrantFile]] = {}
    for file in target.files:
        if await in_thread(downloader.hashers, has_content, target.place(file), file):
            progress.moved(file.size)
        else:
            missing.setdefault(file.sha256, []).append(file)
    wanted = [file for files in missing.values() for file in files]
    if not overwrite:
        target.require_earlier_pull(wanted)
    target.require_space(missing)
    todo = iter(missing.values())
    fetched = 0

    async def worker() -> None:
        nonlocal fetched
        for files in todo:
            blob = target.unfinished / files[0].sha256
            if not blob.exists():
                with PartFile(blob, files[0].size) as part:
                    fetched += part.size - part.bytes_done
                    await downloader.download(files[0], part, urls, progress.moved)
            else:
                progress.moved(files[0].size)
            await in_thread(downloader.writers, target.put, blob, files)
            progress.moved(sum(file.size for file in files[1:]))

    await run_all(worker() for _ in range(CONNECTIONS))
    return len(wanted), fetched


class _Folder:
    """Where a model is pulled to."""

    def __init__(self, folder: Path, files: Sequence[GrantFile]) -> None:
        self.files = files
        self.unfinished = folder / UNFINISHED
        self._folder = folder
        self._mode = 0o666 & ~_umask()
        for file in files:
            # The server has checked both; what is written to this disk is not left to it.
            is_inside = re.fullmatch(PLAIN_PATH, file.path) and not file.path.startswith(UNFINISHED)
            if not is_inside or not re.fullmatch("[0-9a-f]{64}", file.sha256):
                raise PullError(f"The model contains a file that cannot be stored: {visible(file.path)}.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other pulls out. What is unfinished stays for the next one."""
        private_files.folder(self.unfinished)
        lock = self.unfinished / "lock"
        try:
            descriptor = private_files.lock(lock)
        except BlockingIOError as error:
            raise PullError(f"Another pull into {self._folder} is running. Wait until it ends.") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                self.unfinished.rmdir()
            os.close(descriptor)

    def place(self, file: GrantFile) -> Path:
        return self._folder / file.path

    def require_earlier_pull(self, wanted: Sequence[GrantFile]) -> None:
        """Raises PullError if files of something else would be replaced, as far as can be told."""
        foreign = [file for file in wanted if self._is_foreign(file)]
        if len(foreign) > len(self.files) - len(wanted):
            raise PullError(
                f"{self.place(foreign[0])} exists and is not the model's. Pull into another folder, or add "
                "`--overwrite` to replace it."
            )

    def require_space(self, missing: dict[str, list[GrantFile]]) -> None:
        needed = sum(file.size for files in missing.values() for file in files)
        for part in self.unfinished.iterdir():
            if part.name.partition(".")[0] in missing:
                needed -= part.stat().st_blocks * _BLOCK
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise PullError(
                f"The model needs {size(needed)} more, and {size(free)} are free at {self._folder}. Free some space, "
                "then run the same command again."
            )

    def put(self, blob: Path, files: Sequence[GrantFile]) -> None:
        """Gives the verified bytes their places; replaces what is there."""
        for file in files:
            self.place(file).parent.mkdir(parents=True, exist_ok=True)
        blob.chmod(self._mode)
        for file in files[1:]:
            copy = blob.with_name(f"{blob.name}.copy")
            shutil.copy(blob, copy)
            copy.replace(self.place(file))
        blob.replace(self.place(files[0]))

    def clean(self) -> None:
        """Nothing is left to resume."""
        for path in self.unfinished.iterdir():
            path.unlink()

    def _is_foreign(self, file: GrantFile) -> bool:
        place = self.place(file)
        return place.exists() and (not place.is_file() or place.stat().st_size != file.size)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
