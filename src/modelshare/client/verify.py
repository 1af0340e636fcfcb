"""Compares a folder with a manifest."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelshare.client.errors import SourceError
from modelshare.client.folder import path_of
from modelshare.transfer.download import RemoteFile

UNFINISHED: Final = ".modelshare-pull"
"""In a folder: what an interrupted pull left for the next one."""
_SLICE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Differences:
    """Paths, each list in order."""

    differing: list[str]
    missing: list[str]
    extra: list[str]

    def __bool__(self) -> bool:
        return bool(self.differing or self.missing or self.extra)


def verify_folder(
    folder: Path, files: Sequence[RemoteFile], on_bytes: Callable[[int], None] = lambda _: None
) -> Differences:
    """How the folder differs from a manifest's files. Reads every file; nothing is sent.

    `on_bytes` is called, from several threads, with the number of bytes of each file once it is compared. Raises
    SourceError if the folder cannot be read.
    """
    try:
        there = dict(_files_in(folder))
        wanted = {file.path: file for file in files}
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="verify") as pool:
            same = dict(
                zip(wanted, pool.map(lambda file: _is_same(there, file, on_bytes), wanted.values()), strict=True)
            )
    except OSError as error:
        raise SourceError(f"{error.filename or folder} cannot be read ({error.strerror}).") from error
    return Differences(
        differing=sorted(path for path, is_same in same.items() if path in there and not is_same),
        missing=sorted(wanted.keys() - there.keys()),
        extra=sorted(there.keys() - wanted.keys()),
    )


def find_differing(locations: Mapping[str, Path], files: Sequence[RemoteFile]) -> str | None:
    """The path of a file that is not the same in a manifest and where it lies here; None if all are. Reads them."""
    if unlisted := locations.keys() - {file.path for file in files}:
        return min(unlisted)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="verify") as pool:
        same = pool.map(lambda file: file.path in locations and has_content(locations[file.path], file), files)
        return next((file.path for file, is_same in zip(files, same, strict=True) if not is_same), None)


def has_content(path: Path, file: RemoteFile) -> bool:
    """Whether the file at `path` is that of the manifest. Blocks: reads it."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    hasher = hashlib.sha256()
    with path.open("rb") as opened:
        while data := opened.read(_SLICE):
            hasher.update(data)
    return hasher.hexdigest() == file.sha256


def _is_same(there: dict[str, Path], file: RemoteFile, on_bytes: Callable[[int], None]) -> bool:
    is_same = file.path in there and has_content(there[file.path], file)
    on_bytes(file.size)
    return is_same


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder, onerror=_raise):
        here = Path(parent)
        if here == folder and UNFINISHED in folders:
            folders.remove(UNFINISHED)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*names, *links):
            yield path_of((here / name).relative_to(folder).as_posix()), here / name


def _raise(error: OSError) -> None:
    raise error
