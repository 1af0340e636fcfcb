"""What pickles import when they are loaded, read without loading them: those that can do harm are refused.

No list of harmful imports is complete, so this makes pickles less dangerous and not safe.
"""

import io
import posixpath
import zipfile
from typing import Final

from modelshare.server.registry.inspection.reader import RangeReader, piece
from modelshare.server.registry.refused import ModelRejectedError, printable

_MAX_READ: Final = 64 << 20
"""Bytes of one value in a pickle, or of a pickle in an archive: they are held in memory."""
_BUFFER: Final = 1 << 20
_NAMED: Final = 3
_REMEDY: Final = "Convert the weights to safetensors, and push again."


def check(path: str, reader: RangeReader) -> None:
    """Raises ModelRejectedError for a pickle with a dangerous import, and for one that cannot be judged."""
    from picklescan.scanner import SafetyLevel, scan_bytes  # noqa: PLC0415 - only where pickles are allowed

    data = io.BufferedReader(_Raw(path, reader), _BUFFER)
    try:
        _check_archive(path, data)
        found = scan_bytes(data, path, posixpath.splitext(path)[1].lower())
    except ModelRejectedError:
        raise
    except (ValueError, EOFError, OSError, RuntimeError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _unjudged(path) from error
    names = sorted({f"{each.module}.{each.name}" for each in found.globals if each.safety is SafetyLevel.Dangerous})
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise ModelRejectedError(
            f"{printable(path)} imports {printable(', '.join(names[:_NAMED]))}{more}, which can run any code when the "
            f"file is loaded. {_REMEDY}"
        )
    if found.scan_err:
        raise _unjudged(path)


def _check_archive(path: str, data: "io.BufferedReader[_Raw]") -> None:
    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as archive:
            pickles = [each for each in archive.infolist() if each.filename.endswith((".pkl", ".pickle"))]
            if any(each.file_size > _MAX_READ for each in pickles):
                raise _unjudged(path)
    data.seek(0)


def _unjudged(path: str) -> ModelRejectedError:
    return ModelRejectedError(f"{printable(path)} is a Python pickle that cannot be checked. {_REMEDY}")


class _Raw(io.RawIOBase):
    """A stored file as Python's own files are."""

    def __init__(self, path: str, reader: RangeReader) -> None:
        super().__init__()
        self._path = path
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._reader.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override] # any buffer
        if len(buffer) > _MAX_READ:
            raise _unjudged(self._path)
        length = max(0, min(len(buffer), self._reader.size - self._position))
        buffer[:length] = piece(self._reader, self._position, length)
        self._position += length
        return length
