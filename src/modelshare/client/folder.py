"""Finds the files to push in a model's folder."""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from modelshare.client.errors import SourceError
from modelshare.wire.left_out import LeftOut, Selection
from modelshare.wire.text import visible


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str
    """Path in the model: relative, with `/`, in Unicode normalization form C."""
    location: Path
    size: int
    modified_at: float
    """Unix seconds."""


class Walk:
    """Walks a folder once; `left_out` collects what is not pushed."""

    def __init__(self, folder: Path, selection: Selection) -> None:
        self.left_out: dict[LeftOut, None] = {}
        self._folder = folder
        self._inside = folder.resolve()
        self._selection = selection

    def files(self) -> Iterator[LocalFile]:
        for parent, folders, names in os.walk(self._folder, onerror=_raise):
            here = Path(parent)
            folders[:] = sorted(name for name in folders if self._enters(here / name))
            for name in names:
                if self._takes(here / name):
                    yield self._file(here / name)

    def _enters(self, location: Path) -> bool:
        if not self._takes(location, is_folder=True):
            return self._selection.brings_back and not location.is_symlink()
        if location.is_symlink():
            raise SourceError(f"{location} is a link to a folder. {_COPY_HINT.format(self._folder)}")
        return True

    def _takes(self, location: Path, *, is_folder: bool = False) -> bool:
        path = path_of(location.relative_to(self._folder).as_posix())
        found = self._selection.left_out(path, is_folder=is_folder)
        if found is not None and (not is_folder or not self._selection.brings_back):
            self.left_out[found] = None
        return found is None

    def _file(self, location: Path) -> LocalFile:
        if location.is_symlink() and not _target(location).is_relative_to(self._inside):
            raise SourceError(f"{location} is a link that leads outside the folder. {_COPY_HINT.format(self._folder)}")
        return plain_file(location, path_of(location.relative_to(self._folder).as_posix()))


_COPY_HINT = "Copy the model with its links followed (`cp -rL {} COPY`) and push the copy."


def plain_file(location: Path, path: str) -> LocalFile:
    try:
        status = location.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link_to_itself(location) from error
        raise
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{visible(str(location))} is not a regular file. Move it out of the folder.")
    return LocalFile(path, location, status.st_size, status.st_mtime)


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (RuntimeError, OSError) as error:  # RuntimeError before Python 3.13
        raise _link_to_itself(link) from error


def _link_to_itself(location: Path) -> SourceError:
    return SourceError(f"{visible(str(location))} is a link that points to itself. Delete it, or link to a file.")


def path_of(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python represents undecodable bytes as surrogates
        raise SourceError(f"The name {visible(name)} is not valid UTF-8. Rename the file.") from None
    return unicodedata.normalize("NFC", name)


def check_twins(files: Sequence[LocalFile]) -> None:
    """Raises SourceError if two paths are equal after normalization. `files` must be sorted by path."""
    for one, other in pairwise(files):
        if one.path == other.path:
            names = zip(one.location.parts, other.location.parts, strict=True)
            written = ", the other ".join(map(_letters, next(pair for pair in names if pair[0] != pair[1])))
            raise SourceError(
                f"Two files have the name {visible(one.path)}, written with different Unicode characters: one "
                f"has {written}. Delete or rename one of them."
            )


def _letters(name: str) -> str:
    return " ".join(f"U+{ord(each):04X}" for each in name if not each.isascii())


def _raise(error: OSError) -> None:
    raise error
