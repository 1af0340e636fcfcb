"""Xorbs and shards, made as the specification says, and damaged in every way."""

import contextlib
import io
import struct

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.hub.hugging_face.xet_formats import (
    MAX_CHUNK,
    Segment,
    XetFile,
    XetFormatError,
    chunks_of,
    name_of,
    read_shard,
    unpacked,
)

XORB = "01" * 32


def raw_of(name: str) -> bytes:
    return struct.pack("<4Q", *(int(name[at : at + 16], 16) for at in range(0, 64, 16)))


def chunk(content: bytes, kind: int) -> bytes:
    packed = content
    if kind == 2:
        packed = b"".join(content[first::4] for first in range(4))
    if kind:
        packed = lz4.frame.compress(packed)
    return b"\0" + len(packed).to_bytes(3, "little") + bytes([kind]) + len(content).to_bytes(3, "little") + packed


def shard(files: list[XetFile], *, verification: bool = True) -> bytes:
    data = b"HFRepoMetaData\0" + bytes(17) + struct.pack("<QQ", 2, 0)
    for file in files:
        flags = 1 << 30 | (1 << 31 if verification else 0)
        data += struct.pack("<32sIIQ", bytes(32), flags, len(file.segments), 0)
        for each in file.segments:
            data += struct.pack("<32sIIII", raw_of(each.xorb), 0, each.size, each.first, each.end)
        data += bytes(48) * (len(file.segments) if verification else 0)
        data += raw_of(file.sha256) + bytes(16)
    return data + b"\xff" * 32 + bytes(16)


def read(xorb: bytes, segment: Segment) -> bytes:
    file = io.BytesIO(xorb)
    return b"".join(unpacked(file, chunks_of(file, len(xorb)), segment))


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.integers(0, 2)), min_size=1, max_size=5), st.booleans()
)
def test_chunks_of_every_kind(chunks: list[tuple[bytes, int]], has_footer: bool) -> None:
    xorb = b"".join(chunk(content, kind) for content, kind in chunks) + (b"XETBLOB\1rest" if has_footer else b"")
    whole = b"".join(content for content, _ in chunks)
    assert read(xorb, Segment(XORB, 0, len(chunks), len(whole))) == whole
    last = chunks[-1][0]
    assert read(xorb, Segment(XORB, len(chunks) - 1, len(chunks), len(last))) == last


@pytest.mark.parametrize("verification", [True, False])
def test_the_files_of_a_shard(verification: bool) -> None:
    files = [
        XetFile("ab" * 32, (Segment(XORB, 0, 3, 99), Segment("02" * 32, 1, 2, 7))),
        XetFile("0123456789abcdef" * 4, ()),
    ]
    assert read_shard(shard(files, verification=verification)) == files
    assert files[0].size == 106
    assert name_of(raw_of(files[1].sha256)) == files[1].sha256


@given(st.integers(0, 400), st.binary(max_size=8))
def test_a_damaged_shard_is_refused_or_read(at: int, rubbish: bytes) -> None:
    """It costs no more than its own bytes."""
    data = bytearray(shard([XetFile("ab" * 32, (Segment(XORB, 0, 3, 99),))]))
    data[at : at + len(rubbish)] = rubbish
    with contextlib.suppress(XetFormatError):
        read_shard(bytes(data))


@given(st.binary(max_size=200))
def test_rubbish_is_no_xorb(rubbish: bytes) -> None:
    with contextlib.suppress(XetFormatError):
        chunks_of(io.BytesIO(rubbish), len(rubbish))


def test_what_a_xorb_says_of_itself_is_not_believed() -> None:
    bomb = bytes(1 << 20)
    packed = lz4.frame.compress(bomb)
    small = b"\0" + len(packed).to_bytes(3, "little") + b"\1" + (10).to_bytes(3, "little") + packed
    with pytest.raises(XetFormatError, match="another size"):
        read(small, Segment(XORB, 0, 1, 10))
    large = b"\0" + (1).to_bytes(3, "little") + b"\1" + (MAX_CHUNK + 1).to_bytes(3, "little") + b"x"
    with pytest.raises(XetFormatError, match="no known kind"):
        read(large, Segment(XORB, 0, 1, 10))
    with pytest.raises(XetFormatError, match="cut off"):
        read(chunk(b"abc", 0)[:-1], Segment(XORB, 0, 1, 3))
    with pytest.raises(XetFormatError, match="cannot be unpacked"):
        read(b"\0" + (20).to_bytes(3, "little") + b"\1" + (3).to_bytes(3, "little") + b"x" * 20, Segment(XORB, 0, 1, 3))
    for segment in (Segment(XORB, 0, 2, 6), Segment(XORB, 1, 1, 0), Segment(XORB, 0, 1, 4)):
        with pytest.raises(XetFormatError):
            read(chunk(b"abc", 0), segment)
