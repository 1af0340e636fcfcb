"""The weights on this machine, addressed by content and shared between deployments.

    weights/<sha256>                 a complete, verified file; `.part` and `.pieces` beside it while it is downloaded
    holdings/<deployment>.json       digests of a deployment's files: written before the first byte, deleted last
    views/<deployment>/<path>        links to the deployment's files under their own names, for engines
    converted/<manifest digest>/     files that engines made from the weights

A file is kept as long as a holding lists it. After a crash, `sweep` deletes all others.
"""

import contextlib
import re
import shutil
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from modelshare import private_files
from modelshare.agent.errors import DeploymentError, NoSpaceError
from modelshare.wire.link import DeploymentFile

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class CachedFiles(msgspec.Struct, frozen=True):
    """The files of one deployment, which are kept until it is released."""

    deployment_id: str
    manifest_digest: str
    files: list[DeploymentFile]


class Cache:
    """Methods block on disk access, but only for metadata. `hold` and `release` are synchronized across threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._weights = folder / "weights"
        self._holdings = folder / "holdings"
        self._views = folder / "views"
        self._converted = folder / "converted"
        for part in (self._weights, self._holdings, self._views, self._converted):
            private_files.folder(part)
        self._lock = threading.RLock()
        self._pulling: dict[str, list[DeploymentFile]] = {}

    def blob(self, sha256: str) -> Path:
        """The path at which the file with this digest is or will be stored."""
        if not _DIGEST.fullmatch(sha256):
            raise DeploymentError("The server named a file by an invalid SHA-256 digest.")
        return self._weights / sha256

    def has(self, file: DeploymentFile) -> bool:
        """Whether the file is stored, complete and verified."""
        with contextlib.suppress(FileNotFoundError):
            return self.blob(file.sha256).stat().st_size == file.size
        return False

    def holdings(self) -> list[CachedFiles]:
        """The deployments with files on this machine, including those of an earlier run."""
        found = []
        for path in self._holdings.glob("*.json"):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=CachedFiles))
            except msgspec.DecodeError:  # damaged, or from another release: its files are pulled again if needed
                path.unlink()
        return found

    def hold(self, holding: CachedFiles) -> None:
        """Records that these files are to be kept, whether they are stored already or will be pulled."""
        for file in holding.files:
            self.blob(file.sha256)
            _checked(file.path)
        with self._lock:
            private_files.replace(self._holding(holding.deployment_id), msgspec.json.encode(holding))

    @contextlib.contextmanager
    def room_for(self, holding: CachedFiles) -> Iterator[None]:
        """Reserves disk space while a deployment pulls.

        Raises NoSpaceError if the missing files of all pulls do not fit.
        """
        with self._lock:
            others = [file for files in self._pulling.values() for file in files]
            needed = self._lacking(holding.files)
            free = shutil.disk_usage(self.folder).free
            if needed and self._lacking([*others, *holding.files]) > free:
                raise NoSpaceError(needed=needed, free=max(0, free - self._lacking(others)))
            self._pulling[holding.deployment_id] = holding.files
        try:
            yield
        finally:
            del self._pulling[holding.deployment_id]

    def view(self, holding: CachedFiles, places: Mapping[str, DeploymentFile] | None = None) -> Path:
        """Creates a folder with the deployment's stored files under their own names, or under those in `places`."""
        target = self._views / _name(holding.deployment_id)
        fresh = target.with_name(target.name + ".new")
        for leftover in (target, fresh):
            if leftover.exists():
                shutil.rmtree(leftover)
        for path, file in (places or {file.path: file for file in holding.files}).items():
            place = fresh / _checked(path)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _link(self.blob(file.sha256), place)
        fresh.rename(target)
        return target

    def converted(self, manifest_digest: str, key: str = "") -> Path:
        """A folder for files that engines make from these weights, deleted with the last deployment of the version.

        `key` distinguishes several models of a version.
        """
        folder = self._converted / _name(manifest_digest.removeprefix("sha256:")) / key
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def discard(self, file: DeploymentFile) -> None:
        """Deletes a damaged file, so that it is pulled again."""
        self.blob(file.sha256).unlink(missing_ok=True)

    def release(self, deployment_id: str) -> None:
        """Releases a deployment and deletes every file that no other deployment uses.

        The holding is deleted last: if a deletion fails, the weights are not reported as deleted.
        """
        with self._lock:
            self._delete_all_but([held for held in self.holdings() if held.deployment_id != deployment_id])
            self._holding(deployment_id).unlink(missing_ok=True)
            private_files.sync_folder(self._holdings)

    def sweep(self) -> None:
        """Deletes everything that no holding lists."""
        with self._lock:
            self._delete_all_but(self.holdings())

    def _delete_all_but(self, held: Collection[CachedFiles]) -> None:
        keep = {file.sha256 for holding in held for file in holding.files}
        for path in self._weights.iterdir():
            if path.name.partition(".")[0] not in keep:
                path.unlink()
        _keep_only(self._views, {holding.deployment_id for holding in held})
        _keep_only(self._converted, {holding.manifest_digest.removeprefix("sha256:") for holding in held})

    def _holding(self, deployment_id: str) -> Path:
        return self._holdings / f"{_name(deployment_id)}.json"

    def _lacking(self, files: Iterable[DeploymentFile]) -> int:
        unique = {file.sha256: file for file in files}.values()
        return sum(file.size - self._on_disk(file) for file in unique if not self.has(file))

    def _on_disk(self, file: DeploymentFile) -> int:
        with contextlib.suppress(FileNotFoundError):
            part = self.blob(file.sha256).with_name(file.sha256 + ".part")
            return min(file.size, part.stat().st_blocks * 512)  # stat(2): st_blocks counts units of 512 bytes
        return 0


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise DeploymentError("The server sent a deployment name that is not a valid folder name.")
    return name


def _checked(path: str) -> PurePosixPath:
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise DeploymentError(f"The model contains a file whose path leads outside its folder: {path[:100]!r}.")
    return PurePosixPath(*parts)


def _link(source: Path, place: Path) -> None:
    try:
        place.hardlink_to(source)
    except OSError:  # the file system does not support hard links, or there are too many
        place.symlink_to(source)


def _keep_only(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path)
