"""Unpacks a model's archive, trusting nothing in it: constant memory, bounded output, plain files only.

The standard library decodes each header block; the walk over the blocks is ours, since `tarfile` would read extended
headers of any size into memory, follow links and make devices.
"""

import bz2
import gzip
import hashlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

from modelshare.server.registry.chosen import Chosen
from modelshare.server.registry.paths import MAX_FILES, PathSet, check_path
from modelshare.server.registry.refused import Refused, shown

_CHUNK_BYTES = 1 << 20
_MAX_EXTENDED_HEADER_BYTES = 64 << 10
_ENTRIES_PER_FILE = 4  # a file may bring its folders and extended headers
# Below this a high ratio is harmless, and common: a tar of small files is mostly zeros.
_RATIO_FLOOR_BYTES = 64 << 20
_MAX_ZSTD_WINDOW_BYTES = 128 << 20  # what the zstd program itself accepts unless told otherwise
_MAX_TRAILER_BYTES = 1 << 20  # tar pads archives to 10 KiB
_EXTENSIONS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
_SUFFIXES: Final = {
    ".tar": "tar",
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.bz2": "tar.bz2",
    ".tbz2": "tar.bz2",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
}


class ArchiveKind(StrEnum):
    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_BZ2 = "tar.bz2"
    TAR_ZST = "tar.zst"


@dataclass(frozen=True, slots=True)
class ExtractedFile:
    path: str  # relative to the destination
    size: int  # bytes
    sha256: str


def kind_of(filename: str) -> ArchiveKind:
    """The kind a file name stands for; raises `Refused` for any other."""
    for suffix, kind in _SUFFIXES.items():
        if filename.lower().endswith(suffix):
            return ArchiveKind(kind)
    raise Refused(f"{shown(filename)} is no archive known here; send a .tar, .tar.gz, .tar.bz2 or .tar.zst file.")


def extract(
    archive: Path,
    kind: ArchiveKind,
    destination: Path,
    *,
    max_bytes: int,
    chosen: Chosen | None = None,
    max_files: int = MAX_FILES,
    max_ratio: int = 200,
) -> list[ExtractedFile]:
    """Unpack `archive` into `destination`, which must not exist or be empty, and list its files sorted by path.

    A single top folder that holds everything is left out. `max_bytes` bounds the sum of all files, `max_ratio` the
    unpacked bytes per packed byte; `chosen` says what is taken, and the rest is skipped unseen. Raises `Refused`, and
    leaves nothing behind, unless the archive is whole and holds plain files under plain paths only. The destination
    appears at once, when all is written.
    """
    chosen = chosen or Chosen()
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        limit = max(_RATIO_FLOOR_BYTES, max_ratio * archive.stat().st_size)
        with archive.open("rb") as packed:
            stream = _Unpacked(archive.name, _decompressed(packed, kind), limit)
            files = list(_Extraction(archive.name, stream, staging, max_bytes, max_files, chosen).run())
        if not files:
            raise Refused(f"{shown(archive.name)} holds no files; pack the model's folder again and push it.")
        top = chosen.top = _single_top_folder(files)
        (staging / top).rename(destination)
        return sorted(
            (replace(file, path=file.path.removeprefix(f"{top}/")) for file in files), key=lambda file: file.path
        )
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _decompressed(packed: BinaryIO, kind: ArchiveKind) -> _Readable:
    match kind:
        case ArchiveKind.TAR:
            return packed
        case ArchiveKind.TAR_GZ:
            return gzip.GzipFile(fileobj=packed)
        case ArchiveKind.TAR_BZ2:
            return bz2.BZ2File(packed)
        case ArchiveKind.TAR_ZST:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
            return decompressor.stream_reader(packed, read_across_frames=True)


def _single_top_folder(files: list[ExtractedFile]) -> str:
    """The folder that holds every file, or '' where there is none."""
    tops = {file.path.partition("/")[0] for file in files}
    return tops.pop() if len(tops) == 1 and all("/" in file.path for file in files) else ""


class _Unpacked:
    """The decompressed stream, in exact pieces, with its length bounded."""

    def __init__(self, name: str, stream: _Readable, limit: int) -> None:
        self._name = name
        self._stream = stream
        self._left = limit

    def take(self, length: int) -> bytes:
        """The next `length` bytes; refuses a stream that ends before."""
        pieces = []
        while length:
            piece = self.read(length)
            if not piece:
                raise self._cut_short()
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    def read(self, length: int) -> bytes:
        """Up to `length` bytes, none at the end."""
        try:
            data = self._stream.read(min(length, _CHUNK_BYTES))
        except EOFError:
            raise self._cut_short() from None
        except (OSError, zlib.error, zstandard.ZstdError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the archive's
            raise Refused(f"{shown(self._name)} is damaged or of another kind; pack it again and push it.") from error
        self._left -= len(data)
        if self._left < 0:
            raise Refused(f"{shown(self._name)} unpacks to far more than its own size; pack only the model's files.")
        return data

    def _cut_short(self) -> Refused:
        return Refused(f"{shown(self._name)} is cut short; pack it again and push it.")


@dataclass(frozen=True, slots=True)
class _Extended:
    """What extended headers say about the entry that follows them."""

    path: str | None = None
    size: int | None = None


class _Extraction:
    """One walk over one archive."""

    def __init__(
        self, name: str, stream: _Unpacked, folder: Path, max_bytes: int, max_files: int, chosen: Chosen
    ) -> None:
        self._name = name
        self._stream = stream
        self._folder = folder
        self._max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._entries_left = _ENTRIES_PER_FILE * max_files
        self._paths = PathSet(max_files)
        self._chosen = chosen

    def run(self) -> Iterator[ExtractedFile]:
        extended = _Extended()
        while (entry := self._next_entry()) is not None:
            if entry.type in _EXTENSIONS:
                extended = self._extend(extended, entry)
                continue
            path = _plain(extended.path or entry.name)
            size = entry.size if extended.size is None else extended.size
            extended = _Extended()
            if not self._chosen.takes(path):
                self._skip(size)
            elif entry.type == tarfile.DIRTYPE:
                check_path(path.rstrip("/") or "model")  # the packed folder itself has no name
            elif entry.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
                raise self._not_plain(path)
            else:
                yield self._write(path, size)
        self._check_trailer()

    def _next_entry(self) -> tarfile.TarInfo | None:
        """The next header, or None at the end mark."""
        block = self._stream.take(tarfile.BLOCKSIZE)
        if not any(block):
            return None
        self._entries_left -= 1
        if self._entries_left < 0:
            raise Refused(f"{shown(self._name)} holds too many entries; pack only the files an engine needs.")
        try:
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise self._damaged() from error
        if entry.size < 0 or (entry.type == tarfile.DIRTYPE and entry.size):
            raise self._damaged()
        return entry

    def _extend(self, extended: _Extended, entry: tarfile.TarInfo) -> _Extended:
        if entry.size > _MAX_EXTENDED_HEADER_BYTES:
            raise self._damaged()
        body = self._stream.take(entry.size)
        self._stream.take(-entry.size % tarfile.BLOCKSIZE)
        try:
            if entry.type == tarfile.GNUTYPE_LONGNAME:
                return replace(extended, path=body.rstrip(b"\0").decode())
            if entry.type == tarfile.GNUTYPE_LONGLINK:
                return extended  # the entry it belongs to is a link, refused as such
            records = dict(_pax_records(body))
            size = int(records["size"]) if "size" in records else extended.size
        except ValueError as error:
            raise self._damaged() from error
        if any(key.startswith("GNU.sparse.") for key in records):
            raise self._not_plain(records.get("GNU.sparse.name", entry.name))
        is_global = entry.type == tarfile.XGLTYPE
        if (size or 0) < 0 or "hdrcharset" in records or (is_global and records.keys() & {"path", "size"}):
            raise self._damaged()
        return extended if is_global else _Extended(records.get("path", extended.path), size)

    def _write(self, path: str, size: int) -> ExtractedFile:
        self._paths.add(path)
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise Refused(
                f"{shown(self._name)} unpacks to more than the {self._max_bytes:,} bytes that are left for it; "
                "free some space or push fewer files."
            )
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256()
        with target.open("xb") as file:
            for piece in self._data(size):
                sha256.update(piece)
                file.write(piece)
        return ExtractedFile(path, size, sha256.hexdigest())

    def _skip(self, size: int) -> None:
        for _ in self._data(size):
            pass

    def _data(self, size: int) -> Iterator[bytes]:
        """The content that follows a header, and the padding after it."""
        left = size
        while left:
            piece = self._stream.take(min(left, _CHUNK_BYTES))
            left -= len(piece)
            yield piece
        self._stream.take(-size % tarfile.BLOCKSIZE)

    def _check_trailer(self) -> None:
        """Read to the end, so that the packed stream's own checksum is compared; only zeros may follow the end mark."""
        left = _MAX_TRAILER_BYTES
        while piece := self._stream.read(_CHUNK_BYTES):
            left -= len(piece)
            if left < 0 or any(piece):
                raise Refused(f"{shown(self._name)} has data after its end; pack it again and push it.")

    def _damaged(self) -> Refused:
        return Refused(f"{shown(self._name)} is not a valid tar archive; pack it again and push it.")

    def _not_plain(self, path: str) -> Refused:
        return Refused(
            f"{shown(path)} in {shown(self._name)} is a link, a device or a sparse file; "
            "pack plain files only (tar --dereference) and push it again."
        )


def _pax_records(body: bytes) -> Iterator[tuple[str, str]]:
    """`LENGTH KEY=VALUE` lines, LENGTH counting the whole line; raises `ValueError` for anything else."""
    while body:
        length, separator, _ = body.partition(b" ")
        if not separator or not length.isdigit() or not len(length) + 1 < int(length) <= len(body):
            raise ValueError("malformed extended header")
        line, body = body[: int(length)], body[int(length) :]
        key, equals, value = line[len(length) + 1 :].decode().partition("=")
        if not equals or not value.endswith("\n"):
            raise ValueError("malformed extended header")
        yield key, value.removesuffix("\n")


def _plain(path: str) -> str:
    """`path` without the ./ that `tar -C FOLDER .` puts before each name."""
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return "" if path == "." else path
