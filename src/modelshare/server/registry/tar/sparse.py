"""Sparse files: tar stores them without their long runs of zeros.

https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelshare.server.registry.tar.header import BLOCK, Header, number
from modelshare.server.registry.tar.stream import Stream

_MAX_SEGMENTS = 100_000
_OLD_ENTRIES, _MORE_ENTRIES = 4, 21
_ENTRY: Final = 24
_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Layout:
    """The positions of a file's stored bytes; all other bytes are zero."""

    size: int
    """Of the complete file, in bytes."""
    segments: Sequence[tuple[int, int]]
    """Offset and length, in order."""
    stored: int
    """Bytes in the archive: the segments' sum."""


class Fields:
    """Fields of extended headers for the sparse file that follows."""

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.major = b""
        self.size = 0
        self.numbers: list[int] = []
        """Offsets and lengths, alternating."""

    def add(self, key: bytes, value: bytes) -> None:
        """Raises ValueError for an invalid value."""
        match key.removeprefix(b"GNU.sparse."):
            case b"name":
                self.name = value
            case b"major":
                self.major = value
            case b"size" | b"realsize":
                self.size = decimal(value)
            case b"offset" | b"numbytes":
                self.numbers.append(decimal(value))
            case b"map":
                self.numbers = [decimal(part) for part in value.split(b",")] if value else []
        if len(self.numbers) > 2 * _MAX_SEGMENTS:
            raise ValueError("too many segments")


def whole(size: int) -> Layout:
    """The layout of a file that is not sparse."""
    return Layout(size, ((0, size),) if size else (), size)


def old_gnu(stream: Stream, header: Header, stored: int) -> Layout:
    """Reads the map from the header and the blocks after it. Raises ValueError."""
    segments, more = _entries(header.block[386:], _OLD_ENTRIES), header.block[482]
    while more:
        block = stream.take(BLOCK)
        segments += _entries(block, _MORE_ENTRIES)
        more = block[504]
        if len(segments) > _MAX_SEGMENTS:
            raise ValueError("too many segments")
    return _checked(number(header.block[483:495]), segments, stored)


def pax(stream: Stream, fields: Fields, stored: int) -> Layout:
    """Reads the map from the extended header or, since version 1.0, before the file's bytes. Raises ValueError."""
    if fields.major == b"1":
        segments, length = _leading_map(stream, stored)
        return _checked(fields.size, segments, stored - length)
    if len(fields.numbers) % 2 or len(fields.numbers) > 2 * _MAX_SEGMENTS:
        raise ValueError("malformed map")
    return _checked(fields.size, list(zip(fields.numbers[::2], fields.numbers[1::2], strict=True)), stored)


def decimal(value: bytes) -> int:
    """Parses digits. Raises ValueError unless they are a possible file size."""
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise ValueError("not a number")
    return int(value)


def _entries(fields: bytes, count: int) -> list[tuple[int, int]]:
    segments = []
    for start in range(0, count * _ENTRY, _ENTRY):
        offset, length = fields[start : start + 12], fields[start + 12 : start + _ENTRY]
        if not length[0]:
            break
        segments.append((number(offset), number(length)))
    return segments


def _leading_map(stream: Stream, stored: int) -> tuple[list[tuple[int, int]], int]:
    """The map in decimal lines (the number of segments, then offset and length of each), and its size in whole
    blocks."""
    lines: list[bytes] = []
    rest, taken = b"", 0
    while not lines or len(lines) <= 2 * decimal(lines[0]):
        if taken >= stored or len(rest) > _MAX_DIGITS or (lines and decimal(lines[0]) > _MAX_SEGMENTS):
            raise ValueError("malformed map")
        *more, rest = (rest + stream.take(BLOCK)).split(b"\n")
        lines += more
        taken += BLOCK
    numbers = [decimal(line) for line in lines[1 : 2 * decimal(lines[0]) + 1]]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), taken


def _checked(size: int, segments: Sequence[tuple[int, int]], stored: int) -> Layout:
    at = 0
    for offset, length in segments:
        if offset < at:
            raise ValueError("segments overlap")
        at = offset + length
    if at > size or sum(length for _, length in segments) != stored:
        raise ValueError("segments do not fit")
    return Layout(size, segments, stored)
