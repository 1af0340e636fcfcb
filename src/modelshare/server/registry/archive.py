"""Unpacks a model's archive, trusting nothing in it: constant memory, bounded output, plain files only."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from modelshare.server.registry.archive_selection import ArchiveSelection
from modelshare.server.registry.paths import MAX_FILES, PathSet, check_path
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.tar.members import Kind, Member, Members
from modelshare.server.registry.tar.stream import CHUNK_BYTES, ArchiveKind, Stream, decompressed

# Below this size a high compression ratio is harmless, and common: a tar of small files is mostly zeros.
_RATIO_FLOOR_BYTES = 64 << 20
_ZEROS = bytes(CHUNK_BYTES)
_SUFFIXES: Final = {
    ".tar": "tar",
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.bz2": "tar.bz2",
    ".tbz2": "tar.bz2",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
}


@dataclass(frozen=True, slots=True)
class ExtractedFile:
    path: str  # relative to the destination
    size: int  # bytes
    sha256: str


def kind_of(filename: str) -> ArchiveKind:
    """The archive's kind by its file name. Raises ModelRejectedError for an unsupported one."""
    for suffix, kind in _SUFFIXES.items():
        if filename.lower().endswith(suffix):
            return ArchiveKind(kind)
    raise ModelRejectedError(
        f"{printable(filename)} is not a supported archive; send a .tar, .tar.gz, .tar.bz2 or .tar.zst file."
    )


def extract(
    archive: Path,
    kind: ArchiveKind,
    destination: Path,
    *,
    max_bytes: int,
    chosen: ArchiveSelection | None = None,
    max_files: int = MAX_FILES,
    max_ratio: int = 200,
) -> list[ExtractedFile]:
    """Unpacks `archive` into `destination`, which must not exist or be empty. Returns the files sorted by path.

    A single top-level folder is removed from the paths. `max_bytes` limits the total size of the files, `max_ratio` the
    unpacked bytes (including holes and hard links) per packed byte. `chosen` selects the files to unpack; others are
    skipped without any check. Raises ModelRejectedError, leaving no files behind, unless the archive is complete and
    contains only regular files under valid paths. The destination is created atomically, once everything is written.
    """
    chosen = chosen or ArchiveSelection()
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        limit = max(_RATIO_FLOOR_BYTES, max_ratio * archive.stat().st_size)
        with archive.open("rb") as packed:
            stream = Stream(archive.name, decompressed(archive.name, packed, kind), limit)
            files = _Extraction(stream, staging, max_bytes, max_files, chosen).run()
        if not files:
            raise ModelRejectedError(
                f"{printable(archive.name)} contains no files; pack the model's folder again and push it."
            )
        top = chosen.top = _single_top_folder(files)
        (staging / top).rename(destination)
        return sorted(
            (replace(file, path=file.path.removeprefix(f"{top}/")) for file in files), key=lambda file: file.path
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _single_top_folder(files: list[ExtractedFile]) -> str:
    """The folder that contains every file, or '' if there is none."""
    tops = {file.path.partition("/")[0] for file in files}
    return tops.pop() if len(tops) == 1 and all("/" in file.path for file in files) else ""


class _Extraction:
    """One pass over an archive."""

    def __init__(self, stream: Stream, folder: Path, max_bytes: int, max_files: int, chosen: ArchiveSelection) -> None:
        self._name = printable(stream.name)
        self._stream = stream
        self._members = Members(stream, max_files)
        self._folder = folder
        self._max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._paths = PathSet(max_files)
        self._written: dict[str, ExtractedFile] = {}
        self._chosen = chosen

    def run(self) -> list[ExtractedFile]:
        for member in self._members:
            if not self._chosen.takes(_with_slash(member)):
                self._members.skip(member)
            elif not member.is_named_in_utf8:
                raise self._not_utf8(member)
            elif member.kind is Kind.FOLDER:
                check_path(member.path.rstrip("/") or "model")  # the root entry, `./`, has no name
                self._members.skip(member)
            elif member.kind is Kind.FILE:
                self._write(member)
            elif member.kind is Kind.HARD_LINK:
                self._link(member)
            else:
                raise self._not_plain(member)
        return list(self._written.values())

    def _write(self, member: Member) -> None:
        target = self._place(member.path, member.layout.size)
        sha256 = hashlib.sha256()
        at = 0
        with target.open("xb") as file:
            for offset, piece in self._members.content(member):
                self._hash_zeros(sha256, offset - at)
                sha256.update(piece)
                file.seek(offset)
                file.write(piece)
                at = offset + len(piece)
            self._hash_zeros(sha256, member.layout.size - at)
            file.truncate(member.layout.size)
        self._written[member.path] = ExtractedFile(member.path, member.layout.size, sha256.hexdigest())

    def _link(self, member: Member) -> None:
        """Adds a second name for a file unpacked before; `tar` also writes hard links for a file that it is given
        twice."""
        source = self._written.get(member.target)
        if source is None:
            raise ModelRejectedError(
                f"{printable(member.path)} in {self._name} is a hard link to {printable(member.target)}, "
                "which is not among "
                "the files before it; pack the folder with `tar --hard-dereference`, or a copy of it made by `cp -rL`, "
                "and push it again."
            )
        if member.path == member.target:
            return
        self._stream.charge(source.size)
        os.link(self._folder / source.path, self._place(member.path, source.size))
        self._written[member.path] = replace(source, path=member.path)

    def _place(self, path: str, size: int) -> Path:
        """The target path of a file, after checking it and reserving `size` bytes."""
        self._paths.add(path)
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ModelRejectedError(
                f"{self._name} unpacks to more than the {self._max_bytes:,} bytes that are left for it; "
                "free some space or push fewer files."
            )
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _hash_zeros(self, sha256: "hashlib._Hash", length: int) -> None:
        """Adds the zeros of a hole in a sparse file to the digest."""
        self._stream.charge(length)
        while length:
            step = min(length, len(_ZEROS))
            sha256.update(_ZEROS[:step])
            length -= step

    def _not_utf8(self, member: Member) -> ModelRejectedError:
        name = member.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return ModelRejectedError(
            f"The name {printable(name)} in {self._name} is not valid UTF-8; rename the file, or convert all names "
            "(`convmv -r -f latin1 -t utf8 --notest FOLDER`), and pack the folder again."
        )

    def _not_plain(self, member: Member) -> ModelRejectedError:
        match member.kind:
            case Kind.SYMBOLIC_LINK:
                what = "is a symbolic link; pack the file it points to instead (`tar --dereference`)"
            case Kind.DEVICE:
                what = "is a device or a pipe, which no model needs; pack the folder without it"
            case _:
                what = (
                    f"is an entry of a rare kind ({printable(member.type.decode('latin-1'))}); pack the folder "
                    "again with GNU tar or bsdtar, without --sparse"
                )
        return ModelRejectedError(f"{printable(member.path)} in {self._name} {what} and push it again.")


def _with_slash(member: Member) -> str:
    """The path, ending in `/` for a folder."""
    return f"{member.path.rstrip('/')}/" if member.kind is Kind.FOLDER else member.path
