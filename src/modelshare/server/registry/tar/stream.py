"""Reads the decompressed bytes of an archive, up to a limit."""

import bz2
import gzip
import zlib
from enum import StrEnum
from typing import BinaryIO, Final, Protocol

import zstandard

from modelshare.server.registry.refused import ModelRejectedError, printable

CHUNK_BYTES: Final = 1 << 20
_MAX_ZSTD_WINDOW_BYTES = 128 << 20  # what the zstd program itself accepts unless told otherwise
_ZSTD_HEADER_BYTES = 18
_ZIP, _XZ = b"PK\x03\x04", b"\xfd7zXZ\0"


class ArchiveKind(StrEnum):
    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_BZ2 = "tar.bz2"
    TAR_ZST = "tar.zst"


_MAGIC: Final = {
    b"\x1f\x8b": ArchiveKind.TAR_GZ,
    b"BZh": ArchiveKind.TAR_BZ2,
    b"\x28\xb5\x2f\xfd": ArchiveKind.TAR_ZST,
}


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def decompressed(name: str, packed: BinaryIO, kind: ArchiveKind) -> Readable:
    """Decompresses `packed`. Like `tar -x`, goes by its first bytes, and by `kind` only if they are not conclusive."""
    start = packed.read(_ZSTD_HEADER_BYTES)
    packed.seek(0)
    if start.startswith((_ZIP, _XZ)):
        other = "a ZIP file" if start.startswith(_ZIP) else "compressed by xz"
        remedy = "pack the model's folder as .tar, .tar.gz, .tar.bz2 or .tar.zst"
        raise ModelRejectedError(f"{printable(name)} is not a valid tar archive but {other}; {remedy}.")
    match next((known for magic, known in _MAGIC.items() if start.startswith(magic)), kind):
        case ArchiveKind.TAR:
            return packed
        case ArchiveKind.TAR_GZ:
            return gzip.GzipFile(fileobj=packed)
        case ArchiveKind.TAR_BZ2:
            return bz2.BZ2File(packed)
        case ArchiveKind.TAR_ZST:
            _check_window(name, start)
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW_BYTES)
            return decompressor.stream_reader(packed, read_across_frames=True)


def _check_window(name: str, start: bytes) -> None:
    try:
        window = zstandard.get_frame_parameters(start).window_size
    except zstandard.ZstdError:
        return  # found when it is read
    if window > _MAX_ZSTD_WINDOW_BYTES:
        raise ModelRejectedError(
            f"{printable(name)} needs more than {_MAX_ZSTD_WINDOW_BYTES >> 20} MiB of memory to unpack; compress it "
            "again without zstd's option --long or --ultra."
        )


class Stream:
    """The decompressed bytes of the archive `name`. `limit` applies to them and to bytes passed to `charge`."""

    def __init__(self, name: str, source: Readable, limit: int) -> None:
        self.name = name
        self._source = source
        self._left = limit

    def take(self, length: int) -> bytes:
        """The next `length` bytes. Raises ModelRejectedError if the stream ends earlier."""
        pieces = []
        while length:
            piece = self.read(length)
            if not piece:
                raise self._truncated()
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    def skip(self, length: int) -> None:
        while length:
            length -= len(self.take(min(length, CHUNK_BYTES)))

    def read(self, length: int) -> bytes:
        """Up to `length` bytes, none at the end."""
        try:
            data = self._source.read(min(length, CHUNK_BYTES))
        except EOFError:
            raise self._truncated() from None
        except (OSError, zlib.error, zstandard.ZstdError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # an error of the disk, not of the archive
            raise ModelRejectedError(
                f"{printable(self.name)} is damaged or of another format; pack it again and push it."
            ) from error
        self.charge(len(data))
        return data

    def charge(self, length: int) -> None:
        """Counts bytes towards the limit: those in the archive, and those of holes and hard links."""
        self._left -= length
        if self._left < 0:
            raise ModelRejectedError(
                f"{printable(self.name)} unpacks to far more than its own size; pack only the model's files."
            )

    def damaged(self) -> ModelRejectedError:
        return ModelRejectedError(f"{printable(self.name)} is not a valid tar archive; pack it again and push it.")

    def _truncated(self) -> ModelRejectedError:
        return ModelRejectedError(f"{printable(self.name)} is truncated; pack it again and push it.")
