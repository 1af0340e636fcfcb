"""Valid file paths in a model: portable to every file system, and inside their folder."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.wire.text import fits_name

MAX_FILES = 10_000
MAX_PATH_BYTES = 1_024
_MAX_FOLDERS = 10_000
_MAX_DEPTH = 128
MAX_SEGMENT_BYTES = 255  # NAME_MAX of Linux, macOS and Windows file systems

# Not allowed on Windows, https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_NOT_PORTABLE = frozenset('<>:"|?*')
_PLAIN = re.compile(r"[\w /.,+=@%~-]*", re.ASCII)
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_VERSION_CONTROL = frozenset({".git", ".hg", ".svn"})


def check_paths(paths: Iterable[str]) -> None:
    """Raises ModelRejectedError unless these paths are valid and do not conflict with each other."""
    accepted = PathSet()
    for path in paths:
        accepted.add(path)


class PathSet:
    """A set of valid paths. `add` raises ModelRejectedError for a path that is invalid or conflicts with another."""

    def __init__(self, max_files: int = MAX_FILES) -> None:
        self._max_files = max_files
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, path: str) -> None:
        check_path(path)
        if len(self._files) >= self._max_files:
            raise ModelRejectedError(
                f"The model contains more than {self._max_files:,} files; push only the files an engine needs."
            )
        folded = unicodedata.normalize("NFC", path.casefold())
        if (twin := self._files.get(folded)) is not None:
            how = "appears twice" if twin == path else f"differs from {printable(twin)} by upper and lower case only"
            raise ModelRejectedError(f"{printable(path)} {how}; keep one of them and push again.")
        if (below := self._folders.get(folded)) is not None:
            raise ModelRejectedError(
                f"{printable(path)} is both a file and the folder of {printable(below)}; rename one of them."
            )
        for folder in _folders_of(folded):
            if folder in self._folders:
                break  # its parents are known as well
            if len(self._folders) >= _MAX_FOLDERS:
                raise ModelRejectedError(
                    f"The model contains more than {_MAX_FOLDERS:,} folders; push only what an engine needs."
                )
            if (file := self._files.get(folder)) is not None:
                raise ModelRejectedError(
                    f"{printable(file)} is both a file and the folder of {printable(path)}; rename one of them."
                )
            self._folders[folder] = path
        self._files[folded] = path


def check_path(path: str) -> None:
    """Raises ModelRejectedError unless `path` is a relative, portable file path in NFC, with `/` as separator."""
    if not path:
        raise ModelRejectedError("A file has an empty path; give every file a name.")
    if problem := _invalid_character(path):
        raise ModelRejectedError(f"{printable(path)} {problem}; rename it and push again.")
    if path.startswith("/"):
        raise ModelRejectedError(f"{printable(path)} is an absolute path; use one relative to the model's folder.")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ModelRejectedError(f"{printable(path)} is longer than {MAX_PATH_BYTES:,} bytes; use a shorter path.")
    if not unicodedata.is_normalized("NFC", path):
        raise ModelRejectedError(f"{printable(path)} is not in Unicode's normal form C; rename it and push again.")
    if path.count("/") > _MAX_DEPTH:
        raise ModelRejectedError(
            f"{printable(path)} is more than {_MAX_DEPTH} folders deep; push only what an engine needs."
        )
    for segment in path.split("/"):
        if problem := _invalid_segment(segment):
            raise ModelRejectedError(f"{printable(path)} {problem}.")


def _invalid_character(path: str) -> str | None:
    if path.isascii() and path.isprintable() and _PLAIN.fullmatch(path):
        return None
    for character in path:
        if not fits_name(character):
            return "contains a control character"
        if character == "\\":
            return "contains a backslash; use / to separate folders"
        if character in _NOT_PORTABLE:
            return f"contains the character {character}, which not every file system can store"
    return None


def _invalid_segment(segment: str) -> str | None:
    if not segment or segment in {".", ".."}:
        return (
            f"contains the part {segment!r}, which could leave the model's folder; use the plain path"
            if segment
            else "has an empty part (a doubled or trailing /); write it with single slashes"
        )
    if segment.endswith((".", " ")):
        return "has a part that ends in a dot or a space, which some systems drop; rename it"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"has a part of over {MAX_SEGMENT_BYTES} bytes; use a shorter name"
    if segment.casefold() in _VERSION_CONTROL:
        return f"is in {segment}, which is not part of a model; leave that folder out"
    return "has a part that is a device name on Windows; rename it" if _WINDOWS_DEVICE.fullmatch(segment) else None


def _folders_of(path: str) -> Iterator[str]:
    """The folders that contain `path`, innermost first."""
    end = path.rfind("/")
    while end != -1:
        yield path[:end]
        end = path.rfind("/", 0, end)
