"""The files that this machine holds: their digests, and whether they are still the bytes that were registered.

A file is served by its digest. Where it lies is known only here, from when it was hashed; no request can name a path. A
file whose size, times or inode differ from then is hashed again before any of it is served.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from modelshare import private_files
from modelshare.agent.errors import StopError
from modelshare.client.source import LocalFile
from modelshare.wire.text import visible

_SLICE: Final = 1 << 20
_STATE: Final = "held.json"


class Identity(msgspec.Struct, frozen=True):
    """What a change of a file shows in. Not the device: it differs after each mount on some systems."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class HashedFile(msgspec.Struct, frozen=True):
    identity: Identity
    sha256: str


class _State(msgspec.Struct):
    hashed: dict[str, HashedFile] = {}
    """By the file's absolute path, with links followed."""
    served: dict[str, list[str]] = {}
    """Where files are, by the digest under which they were registered."""


class NotHeldError(Exception):
    """This machine never registered a file with this digest, or only with other bytes."""


class FileGoneError(NotHeldError):
    """The file was changed or removed."""

    def __init__(self, name: str, *, is_missing: bool) -> None:
        super().__init__(f"{name} is no longer there." if is_missing else f"{name} was changed.")
        self.is_missing = is_missing


class FolderAwayError(Exception):
    """None of the files is there, as when a disk is not mounted: nothing is known of a change."""


class UncheckedError(Exception):
    """The file has to be hashed again before it is served."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One file, open for reading."""

    descriptor: int
    identity: Identity
    location: str

    def read(self, offset: int, length: int) -> bytes:
        """Blocks. Raises FileGoneError if the file is being changed: then the bytes are not what was registered."""
        data = os.pread(self.descriptor, length, offset)
        if len(data) != length or Identity.of(os.fstat(self.descriptor)) != self.identity:
            raise FileGoneError(_name(self.location), is_missing=False)
        return data

    def close(self) -> None:
        os.close(self.descriptor)


class HeldFiles:
    """All methods block; threads may share it."""

    def __init__(self, data_dir: Path) -> None:
        """Raises StopError if what an earlier run stored cannot be read."""
        self._path = data_dir / _STATE
        self._lock = threading.Lock()
        try:
            self._state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except FileNotFoundError:
            self._state = _State()
        except (OSError, msgspec.DecodeError) as error:
            raise StopError(
                f"{self._path} cannot be read. Delete it: then everything is hashed and registered again."
            ) from error

    def hash(self, root: Path, files: Iterable[LocalFile], moved: Callable[[int], None]) -> dict[str, str]:
        """Digests by path in the model. Files that are as they were when they were hashed are not read again.

        Raises OSError, and StopError for a file that is being changed, or that a link leads to outside of the folder
        `root`, if that is one.
        """
        inside = root.resolve() if root.is_dir() else Path("/")
        digests = {}
        try:
            for file in files:
                location = os.path.realpath(file.location, strict=True)
                if not Path(location).is_relative_to(inside):
                    raise StopError(f"{visible(file.path)} is a link that leads outside the folder.")
                known, now = self._state.hashed.get(location), Identity.of(Path(location).stat())
                if known is None or known.identity != now:
                    known = _hashed(location, moved)
                else:
                    moved(file.size)
                self._state.hashed[location] = known
                digests[file.path] = known.sha256
        finally:
            self._save()
        return digests

    def serve(self, files: Iterable[LocalFile], digests: Mapping[str, str]) -> None:
        """Allows these files, just hashed, to be read."""
        with self._lock:
            for file in files:
                locations = self._state.served.setdefault(digests[file.path], [])
                if (location := os.path.realpath(file.location)) not in locations:
                    locations.append(location)
        self._save()

    def serves(self, digests: Iterable[str]) -> bool:
        """Whether all of them were allowed before."""
        return self._state.served.keys() >= set(digests)

    def open(self, sha256: str) -> OpenFile:
        """The file with this digest. Raises NotHeldError, FolderAwayError, or UncheckedError: call `check`, again."""
        gone = None
        for location in self._state.served.get(sha256, ()):
            hashed = self._state.hashed.get(location)
            opened = _open(location)
            if opened is None:
                gone = FileGoneError(_name(location), is_missing=True)
                continue
            if hashed is not None and opened.identity == hashed.identity and hashed.sha256 == sha256:
                return opened
            opened.close()
            if hashed is None or hashed.identity != opened.identity:
                raise UncheckedError(location)
            gone = FileGoneError(_name(location), is_missing=False)
        if gone is not None and not any(map(os.path.exists, self._locations())):
            raise FolderAwayError
        raise gone or NotHeldError("This machine does not hold the file.")

    def check(self, location: str) -> None:
        """Hashes a file again that looks changed. Raises OSError, and FileGoneError if it is being changed."""
        try:
            found = _hashed(location, lambda _: None)
        except StopError as error:
            raise FileGoneError(_name(location), is_missing=False) from error
        with self._lock:
            self._state.hashed[location] = found
        self._save()

    def changes(self) -> dict[str, FileGoneError]:
        """Why files can no longer be served, by their digests. Hashes again what looks changed."""
        found: dict[str, FileGoneError] = {}
        for sha256 in list(self._state.served):
            while True:
                try:
                    self.open(sha256).close()
                except UncheckedError as unchecked:
                    with suppress(OSError, FileGoneError):
                        self.check(unchecked.location)
                        continue
                except FolderAwayError:
                    return {}
                except FileGoneError as gone:
                    found[sha256] = gone
                break
        return found

    def _locations(self) -> set[str]:
        return {location for locations in self._state.served.values() for location in locations}

    def _save(self) -> None:
        with self._lock:
            private_files.replace(self._path, msgspec.json.encode(self._state))


def _open(location: str) -> OpenFile | None:
    """None if there is no such regular file. Follows no link: the path had none when it was hashed."""
    try:
        descriptor = os.open(location, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    return OpenFile(descriptor, Identity.of(status), location)


def _hashed(location: str, moved: Callable[[int], None]) -> HashedFile:
    opened = _open(location)
    if opened is None:
        raise FileNotFoundError(2, "It is not a file that can be read", location)
    try:
        digest, buffer, at = hashlib.sha256(), memoryview(bytearray(_SLICE)), 0
        while count := os.preadv(opened.descriptor, [buffer], at):
            digest.update(buffer[:count])
            at += count
            moved(count)
        if Identity.of(os.fstat(opened.descriptor)) != opened.identity or at != opened.identity.size:
            raise StopError(f"{_name(location)} is being changed. Run the command again when no program writes to it.")
        return HashedFile(opened.identity, digest.hexdigest())
    finally:
        opened.close()


def _name(location: str) -> str:
    return visible(Path(location).name)
