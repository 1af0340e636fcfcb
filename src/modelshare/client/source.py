"""What `push` sends: a Hugging Face directory, one `.gguf` file, or an archive. Looks at names and sizes only.

Refuses early what the server would refuse after hours of sending; the server decides in the end.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelshare.client.errors import SourceError
from modelshare.wire.models import MODEL_NAME_PATTERN
from modelshare.wire.uploads import MAX_FILES

WEIGHTS = frozenset({".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl"})
"""Pickles among them, since a platform may allow them."""
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst")
JUNK_FOLDERS = frozenset({".git", ".hg", ".svn", ".cache", "__pycache__", ".ipynb_checkpoints"})
JUNK_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
JUNK_SUFFIXES = frozenset({".incomplete", ".lock", ".tmp"})


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str
    """In the model: relative, with `/`, in Unicode's normal form C."""
    location: Path
    size: int
    modified_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Source:
    files: tuple[LocalFile, ...]
    """For an archive, itself."""
    is_archive: bool
    name: str | None
    """What the model may be called, from the path's own name; None where that is not a model name."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def read_source(path: Path) -> Source:
    """What lies at `path`. Raises SourceError."""
    try:
        if path.is_dir():
            return _directory(path)
        return _single_file(path)
    except OSError as error:
        raise SourceError(f"Cannot read {error.filename or path}: {error.strerror}.") from error


def _directory(folder: Path) -> Source:
    files = tuple(sorted(_walk(folder), key=lambda file: file.path))
    if not files:
        raise SourceError(f"{folder} holds no files. Give the folder that has the model's config.json and weights.")
    if len(files) > MAX_FILES:
        raise SourceError(
            f"{folder} holds {len(files):,} files, and a model may have {MAX_FILES:,}. Is it the model's?"
        )
    if not any(Path(file.path).suffix.lower() in WEIGHTS for file in files):
        raise SourceError(
            f"{folder} holds no weights (.safetensors or .gguf). Give the folder that has the model's config.json and "
            "weights."
        )
    return Source(files, is_archive=False, name=_model_name(folder.resolve().name))


def _single_file(path: Path) -> Source:
    lower = path.name.lower()
    suffix = next((end for end in (".gguf", *ARCHIVES) if lower.endswith(end)), None)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is neither a folder nor a file.")
    if suffix is None:
        raise SourceError(
            f"{path.name} cannot be pushed by itself. Push the folder that holds the model, one .gguf file, or an "
            "archive (.tar, .tar.gz, .tar.bz2, .tar.zst)."
        )
    if status.st_size == 0:
        raise SourceError(f"{path} is empty.")
    name = unicodedata.normalize("NFC", path.name)
    file = LocalFile(name, path, status.st_size, status.st_mtime)
    return Source((file,), is_archive=suffix != ".gguf", name=_model_name(path.name[: -len(suffix)]))


def _walk(folder: Path) -> Iterator[LocalFile]:
    inside = folder.resolve()
    for parent, folders, names in os.walk(folder, onerror=_raise):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if name not in JUNK_FOLDERS)
        for name in folders:
            if (here / name).is_symlink():
                raise SourceError(f"{here / name} is a link to a folder. {_COPY_HINT.format(folder)}")
        for name in names:
            if name not in JUNK_FILES and Path(name).suffix not in JUNK_SUFFIXES:
                yield _local_file(here / name, folder, inside)


_COPY_HINT = "Copy the model with its links followed (`cp -rL {} COPY`) and push the copy."


def _local_file(location: Path, folder: Path, inside: Path) -> LocalFile:
    if location.is_symlink() and not location.resolve().is_relative_to(inside):
        raise SourceError(f"{location} is a link out of the folder. {_COPY_HINT.format(folder)}")
    status = location.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{location} is no ordinary file. Move it out of the folder.")
    path = unicodedata.normalize("NFC", location.relative_to(folder).as_posix())
    return LocalFile(path, location, status.st_size, status.st_mtime)


def _model_name(text: str) -> str | None:
    return text if len(text) <= 96 and re.fullmatch(MODEL_NAME_PATTERN, text) else None  # noqa: PLR2004 - wire.models


def _raise(error: OSError) -> None:
    raise error
