"""Parses a header block of a tar archive from any program: only the fields that determine what follows.

Owners, modes, times and device numbers are ignored, so nothing in them is an error.
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06 and GNU tar's src/tar.h
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 512
_OCTAL = re.compile(rb" *([0-7]*)(?:[ \0].*)?", re.DOTALL)
_UNSIGNED = struct.Struct("148B8x356B")
_SIGNED = struct.Struct("148b8x356b")
"""For old programs, which computed the checksum of signed bytes."""
_BINARY = 0x80
_CHECKSUM = slice(148, 156)
_POSIX_MAGIC, _GNU_MAGIC, _STAR_MAGIC = b"ustar\0", b"ustar  \0", b"tar\0"


@dataclass(frozen=True, slots=True)
class Header:
    type: bytes
    name: bytes
    link: bytes
    """The target of a link."""
    size: int
    """Bytes, as stated in the header."""
    is_gnu: bool
    """Whether the fields after the name have GNU tar's format, which includes sparse files."""
    block: bytes


def read_header(block: bytes) -> Header:
    """Raises ValueError for a block that is not a header."""
    checksum = number(block[_CHECKSUM])
    if all(checksum != sum(summed.unpack(block)) + 8 * ord(" ") for summed in (_UNSIGNED, _SIGNED)):
        raise ValueError("checksum differs")
    name, prefix = text(block[:100]), b""
    if block[257:263] == _POSIX_MAGIC:
        prefix = text(block[345 : 476 if block[508:] == _STAR_MAGIC else 500])
    return Header(
        type=block[156:157],
        name=prefix + b"/" + name if prefix else name,
        link=text(block[157:257]),
        size=number(block[124:136]),
        is_gnu=block[257:265] == _GNU_MAGIC,
        block=block,
    )


def text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def number(field: bytes) -> int:
    """Parses octal digits, or GNU tar's binary format for larger numbers. Raises ValueError for anything else."""
    if field[0] == _BINARY:
        return int.from_bytes(field[1:])
    octal = _OCTAL.fullmatch(field)
    if octal is None:
        raise ValueError("not a number")
    return int(octal[1] or b"0", 8)
