"""Xorbs and shards, the formats in which hf-xet sends files: https://huggingface.co/docs/xet/shard and /xorb. Pure.

A xorb holds chunks of files. A shard says of which chunks of which xorbs each file consists. Both come from strangers:
whatever does not fit raises `XetFormatError`, and nothing is believed of their sizes before it is there.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import lz4.frame

MAX_XORB: Final = (64 << 20) + (8 << 20)
"""Bytes: what a client puts into one, and the headers of its chunks."""
MAX_SHARD: Final = 64 << 20
MAX_CHUNK: Final = 1 << 20
"""Bytes of an unpacked chunk; clients make none above 128 KiB."""
_MAX_CHUNKS: Final = 100_000
_RECORD: Final = 48
_MAGIC: Final = b"HFRepoMetaData\0"
_END: Final = b"\xff" * 32
_HAS_VERIFICATION: Final = 1 << 31
_HAS_METADATA: Final = 1 << 30
_SHARD_VERSION: Final = 2
_FILE = struct.Struct("<32sIIQ")
_SEGMENT = struct.Struct("<32sIIII")
_CHUNK_HEADER: Final = 8
_FOOTER: Final = b"XETBLOB"
_PLAIN, _LZ4, _GROUPED = range(3)


class XetFormatError(ValueError):
    """The bytes are not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive chunks of a xorb."""

    xorb: str
    first: int
    end: int
    size: int
    """Size in bytes after decompression."""


@dataclass(frozen=True, slots=True)
class XetFile:
    sha256: str
    """The client's claim."""
    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The position of a compressed chunk in a xorb."""

    offset: int
    packed: int
    kind: int
    size: int


def name_of(raw: bytes) -> str:
    """The hash as written in URLs and JSON: four 64-bit numbers, which files store in little-endian order."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def read_shard(data: bytes) -> list[XetFile]:
    """The files of a shard. Ignores what it says about xorbs, which are read themselves."""
    if len(data) < _RECORD or not data.startswith(_MAGIC):
        raise XetFormatError("This is not a shard.")
    (version,) = struct.unpack_from("<Q", data, 32)
    if version != _SHARD_VERSION:
        raise XetFormatError(f"Shards of version {version} are not known here.")
    files: list[XetFile] = []
    at = _RECORD
    while True:
        file_hash, flags, count, _ = _FILE.unpack(_record(data, at))
        at += _RECORD
        if file_hash == _END:
            return files
        segments = [_segment(_record(data, at + n * _RECORD)) for n in range(count)] if _fits(data, at, count) else []
        at += count * _RECORD * (2 if flags & _HAS_VERIFICATION else 1)
        if not flags & _HAS_METADATA:
            raise XetFormatError("A file of the shard has no SHA-256.")
        sha256 = name_of(_record(data, at)[:32])
        at += _RECORD
        files.append(XetFile(sha256, tuple(segments)))


def chunks_of(xorb: BinaryIO, size: int) -> list[Chunk]:
    """The positions of a xorb's chunks. Ignores the optional footer."""
    found: list[Chunk] = []
    offset = 0
    while offset + _CHUNK_HEADER <= size:
        xorb.seek(offset)
        header = xorb.read(_CHUNK_HEADER)
        if header.startswith(_FOOTER):
            break
        version, kind = header[0], header[4]
        packed, unpacked = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
        if version != 0 or kind not in {_PLAIN, _LZ4, _GROUPED} or not 0 < unpacked <= MAX_CHUNK:
            raise XetFormatError("A chunk of the xorb is of no known kind.")
        offset += _CHUNK_HEADER
        if offset + packed > size or len(found) >= _MAX_CHUNKS:
            raise XetFormatError("The xorb is cut off, or has too many chunks.")
        found.append(Chunk(offset, packed, kind, unpacked))
        offset += packed
    return found


def unpacked(xorb: BinaryIO, chunks: list[Chunk], segment: Segment) -> Iterator[bytes]:
    """The bytes of a segment, chunk by chunk."""
    if not segment.first < segment.end <= len(chunks):
        raise XetFormatError("The shard names chunks that the xorb does not have.")
    total = 0
    for chunk in chunks[segment.first : segment.end]:
        xorb.seek(chunk.offset)
        content = _unpack(xorb.read(chunk.packed), chunk)
        total += len(content)
        yield content
    if total != segment.size:
        raise XetFormatError("The chunks of the xorb have another size than the shard says.")


def _unpack(packed: bytes, chunk: Chunk) -> bytes:
    if chunk.kind == _PLAIN:
        content = packed
    else:
        try:
            content = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=chunk.size + 1)
        except RuntimeError as error:
            raise XetFormatError("A chunk of the xorb cannot be unpacked.") from error
    if len(content) != chunk.size:
        raise XetFormatError("A chunk of the xorb has another size than it says.")
    return _ungrouped(content) if chunk.kind == _GROUPED else content


def _ungrouped(content: bytes) -> bytes:
    """First come the bytes 0, 4, 8, … of the chunk, then 1, 5, 9, …, and so on."""
    whole = bytearray(len(content))
    at = 0
    for first in range(4):
        count = len(range(first, len(content), 4))
        whole[first::4] = content[at : at + count]
        at += count
    return bytes(whole)


def _fits(data: bytes, at: int, count: int) -> bool:
    if count > (len(data) - at) // _RECORD:
        raise XetFormatError("The shard is cut off.")
    return True


def _record(data: bytes, at: int) -> bytes:
    found = data[at : at + _RECORD]
    if len(found) < _RECORD:
        raise XetFormatError("The shard is cut off.")
    return found


def _segment(record: bytes) -> Segment:
    xorb, _, size, first, end = _SEGMENT.unpack(record)
    return Segment(name_of(xorb), first, end, size)
