"""Finds what to push: a Hugging Face directory, one `.gguf` file with its parts, or an archive.

Rejects early what the server would reject only after hours of sending; the server has the final say.
"""

import json
import posixpath
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from modelshare.client.errors import SourceError
from modelshare.client.folder import LocalFile, Walk, check_twins, path_of, plain_file
from modelshare.wire.left_out import IGNORE_FILE, LeftOut, Selection, ignore_file_lines
from modelshare.wire.model_files import INDEX, missing, numbered, refusal
from modelshare.wire.models import MODEL_NAME_PATTERN
from modelshare.wire.patterns import MAX_PATTERN, MAX_PATTERNS, PlainPattern, parse
from modelshare.wire.secret_scan import MAX_FILES as MAX_READ
from modelshare.wire.secret_scan import MAX_FOUND, Exposed, find, worth_reading
from modelshare.wire.text import visible
from modelshare.wire.uploads import MAX_FILES

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst")
_PATTERNS = TypeAdapter(list[PlainPattern])
_MAX_INDEX = 64 << 20
"""Bytes. Larger indices are checked only by the server."""


__all__ = ["LocalFile", "PushSource", "find_exposed", "read_source"]


@dataclass(frozen=True, slots=True)
class PushSource:
    files: tuple[LocalFile, ...]
    """For an archive, the archive itself."""
    is_archive: bool
    name: str | None
    """Default name of the model, from the path's name; None if that is not a valid name."""
    left_out: tuple[LeftOut, ...] = ()
    """Only for a folder; for an archive the server reports it."""
    include: Sequence[str] = ()
    """Patterns of files to push although they are left out by default."""
    exclude: Sequence[str] = ()

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def read_source(path: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> PushSource:
    """The files at `path`, except those left out. `include` and `exclude` are `.gitignore` patterns.

    Raises SourceError.
    """
    try:
        if path.is_dir():
            return _directory(path, _checked(include, "--include"), _checked(exclude, "--exclude"))
        return _single_file(path, _checked(include, "--include"), _checked(exclude, "--exclude"))
    except OSError as error:
        raise SourceError(f"Cannot read {visible(str(error.filename or path))}: {error.strerror}.") from error


def find_exposed(source: PushSource) -> list[Exposed]:
    """Lines that appear to contain a key in the small text files of a folder. Raises SourceError."""
    found: list[Exposed] = []
    texts = [file for file in source.files if not source.is_archive and worth_reading(file.path, file.size)]
    for file in texts[:MAX_READ]:
        try:
            found += find(file.path, file.location.read_bytes())
        except OSError as error:
            raise SourceError(f"Cannot read {file.location}: {error.strerror}.") from error
    return found[:MAX_FOUND]


def _directory(folder: Path, include: Sequence[str], exclude: Sequence[str]) -> PushSource:
    ignored = _ignored(folder)
    brought_back = [line.strip()[1:] for line in ignored if line.startswith("!") and parse(line)]
    walk = Walk(folder, Selection.of(ignored=ignored, exclude=exclude, include=include))
    files = tuple(sorted(walk.files(), key=lambda file: file.path))
    left_out = tuple(walk.left_out)
    if not files:
        besides = " other than those that are left out" if left_out else ""
        raise SourceError(
            f"{folder} contains no files{besides}. Use the folder that has the model's config.json and weights."
        )
    if len(files) > MAX_FILES:
        raise SourceError(
            f"{folder} contains {len(files):,} files; a model may have at most {MAX_FILES:,}. Check that it is the "
            "model's folder."
        )
    check_twins(files)
    paths = [file.path for file in files]
    unfinished = [each.path for each in left_out]
    if why := refusal(paths, unfinished=unfinished) or _lost_shard(files, unfinished):
        raise SourceError(f"{visible(str(folder))}: {why}")
    name = _model_name(folder.resolve().name)
    both = _checked([*brought_back, *include], IGNORE_FILE)
    return PushSource(files, is_archive=False, name=name, left_out=left_out, include=both, exclude=exclude)


def _single_file(path: Path, include: Sequence[str], exclude: Sequence[str]) -> PushSource:
    lower = path.name.lower()
    suffix = next((end for end in (".gguf", *ARCHIVES) if lower.endswith(end)), None)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is neither a folder nor a file.")
    if suffix is None:
        raise SourceError(
            f"{path.name} cannot be pushed on its own. Push the folder that contains the model, one .gguf file, "
            "or an archive (.tar, .tar.gz, .tar.bz2, .tar.zst)."
        )
    if status.st_size == 0:
        raise SourceError(f"{path} is empty.")
    if suffix != ".gguf":
        file = plain_file(path, path_of(path.name))
        name = _model_name(path.name[: -len(suffix)])
        return PushSource((file,), is_archive=True, name=name, include=include, exclude=exclude)
    if found := Selection.of(include=include).left_out(path_of(path.name)):
        raise SourceError(f"{path.name} is left out ({found.reason}). Use another file, or `--include` this one.")
    return _gguf(path, include)


def _gguf(path: Path, include: Sequence[str]) -> PushSource:
    """The file, or all parts if it is one part of a split model."""
    part = numbered(path.name)
    if part is None:
        return PushSource((plain_file(path, path_of(path.name)),), False, _model_name(path.stem), include=include)
    there = {sister.name for sister in path.parent.iterdir()} if part.count <= MAX_FILES else {path.name}
    names = [name for name in there if (other := numbered(name)) and other.sister(1) == part.sister(1)]
    if why := refusal(names, unfinished=there):
        raise SourceError(f"{visible(str(path.parent))}: {why}")
    files = tuple(plain_file(path.parent / name, path_of(name)) for name in sorted(names))
    return PushSource(files, False, _model_name(part.prefix), include=include)


def _lost_shard(files: Iterable[LocalFile], unfinished: Sequence[str]) -> str | None:
    """A message about a shard that an index lists but that is missing; None if there is none.

    An index without any of its shards beside a whole file is ignored as outdated.
    """
    by_path = {file.path: file for file in files}
    for path, file in by_path.items():
        if not path.endswith(INDEX) or file.size > _MAX_INDEX:
            continue
        folder = posixpath.dirname(path)
        shards = {posixpath.join(folder, name) for name in _indexed(file.location)}
        lost = sorted(shards - by_path.keys())
        if lost and not (lost == sorted(shards) and path.removesuffix(".index.json") in by_path):
            return missing(lost[0], unfinished=unfinished, more=len(lost) - 1) + f" {path} lists it."
    return None


def _indexed(location: Path) -> list[str]:
    """The file names in an index; empty if it cannot be read (the server will report the reason)."""
    try:
        names = set(json.loads(location.read_bytes())["weight_map"].values())
        return [name for name in names if isinstance(name, str)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _ignored(folder: Path) -> Sequence[str]:
    """The lines of the folder's ignore file. Raises SourceError."""
    try:
        return ignore_file_lines(folder)
    except ValueError as error:
        raise SourceError(f"{visible(str(folder))}: {error}.") from error


def _checked(patterns: Sequence[str], where: str) -> list[str]:
    if len(patterns) > MAX_PATTERNS:
        raise SourceError(f"{where} has {len(patterns):,} patterns; at most {MAX_PATTERNS} are allowed.")
    try:
        return _PATTERNS.validate_python(list(patterns))
    except ValidationError as error:
        wrong = visible(str(error.errors()[0]["input"])[:MAX_PATTERN])
        raise SourceError(
            f"{wrong!r} of {where} is not a valid pattern. Use one such as `*.log`, `logs/` or `/notes.txt`."
        ) from error


def _model_name(text: str) -> str | None:
    return text if len(text) <= 96 and re.fullmatch(MODEL_NAME_PATTERN, text) else None  # noqa: PLR2004 - wire.models
