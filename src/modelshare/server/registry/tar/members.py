"""Iterates over the members of a tar archive like `tar -x`, without writing anything.

`tarfile` is not used, since it reads extended headers of any size into memory and treats damage as the end.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from modelshare.server.registry.paths import MAX_PATH_BYTES
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.tar import pax, sparse
from modelshare.server.registry.tar.header import BLOCK, Header, read_header, text
from modelshare.server.registry.tar.stream import CHUNK_BYTES, Stream

_ENTRIES_PER_FILE = 4  # a file may come with entries for its folders
_EXTENSIONS_PER_ENTRY = 2
_DETAILS, _DETAILS_PER_FILE = 100_000, 64  # records of extended headers, and segments of sparse files
_MAX_LONG_NAME_BYTES = 64 << 10
_MAX_NAME_BYTES = 4 << 10  # PATH_MAX of Linux; of what is not left out, MAX_PATH_BYTES counts
_HERE = re.compile(rb"(?:\./+)+")
_MAX_TRAILER_BYTES = 1 << 20  # tar pads archives to 10 KiB

_PAX, _SOLARIS_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK = b"x", b"X", b"g", b"L", b"K"
_EXTENSIONS: Final = frozenset({_PAX, _SOLARIS_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK})
_FILES: Final = frozenset({b"0", b"\0", b"7"})  # 7 is for contiguous storage, which is up to the file system
_GNU_SPARSE, _HARD_LINK, _SYMBOLIC_LINK, _FOLDER, _GNU_FOLDER = b"S", b"1", b"2", b"5", b"D"
_DEVICES: Final = frozenset({b"3", b"4", b"6"})
_VOLUME_LABEL, _CONTINUED, _SOLARIS_ACL = b"V", b"M", b"A"


class Kind(Enum):
    FILE = auto()
    FOLDER = auto()
    HARD_LINK = auto()
    SYMBOLIC_LINK = auto()
    DEVICE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Member:
    path: str
    """Without a leading ./, in Unicode's normal form C, as folders are pushed; bytes that are not UTF-8 are escaped as
    `surrogateescape` does it."""
    kind: Kind
    target: str
    """For a hard link: the path of an earlier member."""
    layout: sparse.Layout
    """The layout of the bytes that follow in the archive."""
    is_named_in_utf8: bool
    type: bytes


@dataclass(slots=True)
class _Extended:
    """The contents of extended headers, for the next entry."""

    path: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    holes: sparse.Fields | None = None


@dataclass(slots=True)
class Members:
    """An iterator over members. Consume each member's bytes with `content` or `skip` before the next one."""

    stream: Stream
    max_files: int
    _entries: int = field(default=0, init=False)
    _extensions: int = field(default=0, init=False)
    _details: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Member]:
        extended = _Extended()
        while (header := self._next_header()) is not None:
            try:
                if header.type in _EXTENSIONS:
                    self._extend(extended, header)
                    continue
                member = self._member(extended, header)
            except ValueError as error:
                raise self.stream.damaged() from error
            extended = _Extended()
            if header.type in {_VOLUME_LABEL, _SOLARIS_ACL}:
                self.skip(member)
            else:
                yield member
        self._check_trailer()

    def content(self, member: Member) -> Iterator[tuple[int, bytes]]:
        """The member's stored bytes, each piece with its offset in the file."""
        for start, length in member.layout.segments:
            at, end = start, start + length
            while at < end:
                piece = self.stream.take(min(end - at, CHUNK_BYTES))
                yield at, piece
                at += len(piece)
        self.stream.skip(-member.layout.stored % BLOCK)

    def skip(self, member: Member) -> None:
        self.stream.skip(member.layout.stored + -member.layout.stored % BLOCK)

    def _next_header(self) -> Header | None:
        """The next header, or None at the end mark."""
        block = self.stream.take(BLOCK)
        if not any(block):
            return None
        try:
            header = read_header(block)
        except ValueError as error:
            raise self.stream.damaged() from error
        if header.type in _EXTENSIONS:
            self._extensions += 1
        else:
            self._entries += 1
        limit = _ENTRIES_PER_FILE * self.max_files
        if self._entries > limit or self._extensions > _EXTENSIONS_PER_ENTRY * limit:
            raise self._too_many()
        return header

    def _count_details(self, count: int) -> None:
        self._details += count
        if self._details > _DETAILS + _DETAILS_PER_FILE * self.max_files:
            raise self._too_many()

    def _too_many(self) -> ModelRejectedError:
        return ModelRejectedError(
            f"{printable(self.stream.name)} contains too many entries; pack only the files an engine needs."
        )

    def _too_long(self) -> ModelRejectedError:
        return ModelRejectedError(
            f"A name in {printable(self.stream.name)} is longer than {MAX_PATH_BYTES:,} bytes; use a shorter one."
        )

    def _extend(self, extended: _Extended, header: Header) -> None:
        if header.type in {_LONG_NAME, _LONG_LINK}:
            if header.size > _MAX_LONG_NAME_BYTES:
                raise self._too_long()
            name = text(self.stream.take(header.size))
            if header.type == _LONG_NAME:
                extended.path = name
            else:
                extended.link = name
        else:
            for key, value in pax.records(self.stream, header.size):
                self._count_details(1)
                if value is None:
                    continue
                if key.startswith(b"GNU.volume."):
                    self._refuse_volume(key)
                elif header.type == _GLOBAL_PAX:
                    raise ValueError("a global header record describes a file")
                else:
                    _take_record(extended, key, value)
        self.stream.skip(-header.size % BLOCK)

    def _member(self, extended: _Extended, header: Header) -> Member:
        if header.type == _CONTINUED:
            self._refuse_volume(b"")
        name = header.name if extended.path is None else extended.path
        if extended.holes is not None and extended.holes.name is not None:
            name = extended.holes.name
        kind = _kind(header, name)
        layout = self._layout(extended, header, kind)
        self._count_details(len(layout.segments))
        target = (header.link if extended.link is None else extended.link) if kind is Kind.HARD_LINK else b""
        return Member(self._plain(name), kind, self._plain(target), layout, _is_utf8(name), header.type)

    def _plain(self, name: bytes) -> str:
        """`name` without the ./ that `tar -C FOLDER .` puts before each, in the form in which folders are pushed."""
        if here := _HERE.match(name):
            name = name[here.end() :]
        if len(name) > _MAX_NAME_BYTES:
            raise self._too_long()
        path = unicodedata.normalize("NFC", name.decode("utf-8", "surrogateescape"))
        return "" if path == "." else path

    def _layout(self, extended: _Extended, header: Header, kind: Kind) -> sparse.Layout:
        stored = header.size if extended.size is None else extended.size
        if kind is Kind.FILE and (header.type == _GNU_SPARSE or extended.holes is not None):
            try:
                if extended.holes is not None:
                    return sparse.pax(self.stream, extended.holes, stored)
                return sparse.old_gnu(self.stream, header, stored)
            except ValueError as error:
                raise ModelRejectedError(
                    f"{printable(self.stream.name)} contains a sparse file that is damaged or of an unsupported "
                    "form; pack the folder again without --sparse (-S) and push it."
                ) from error
        if header.type == _FOLDER and stored:
            raise ValueError("the size of an entry is ambiguous")
        if kind in {Kind.FILE, Kind.FOLDER, Kind.UNKNOWN}:
            return sparse.whole(stored)
        return sparse.whole(0)  # ignore the stated size: some programs state the target's

    def _refuse_volume(self, key: bytes) -> None:
        if key == b"GNU.volume.label":
            return
        raise ModelRejectedError(
            f"{printable(self.stream.name)} is one volume of an archive of several; pack the folder into one file."
        )

    def _check_trailer(self) -> None:
        """Reads to the end, so that the compressed stream's checksum is verified. Only zeros may follow the end
        mark."""
        left = _MAX_TRAILER_BYTES
        while piece := self.stream.read(CHUNK_BYTES):
            left -= len(piece)
            if left < 0 or any(piece):
                raise ModelRejectedError(
                    f"{printable(self.stream.name)} has data after its end; pack it again and push it."
                )


def _take_record(extended: _Extended, key: bytes, value: bytes) -> None:
    match key:
        case b"path":
            extended.path = value or None
        case b"linkpath":
            extended.link = value or None
        case b"size":
            extended.size = sparse.decimal(value) if value else None
        case _:
            extended.holes = extended.holes or sparse.Fields()
            extended.holes.add(key, value)


def _kind(header: Header, name: bytes) -> Kind:
    """The kind of an entry. Programs older than POSIX mark a folder only by a / at the end of its name."""
    if header.type in _FILES or (header.type == _GNU_SPARSE and header.is_gnu):
        return Kind.FOLDER if name.endswith(b"/") else Kind.FILE
    if header.type in {_FOLDER, _GNU_FOLDER}:
        return Kind.FOLDER
    if header.type in _DEVICES:
        return Kind.DEVICE
    return {_HARD_LINK: Kind.HARD_LINK, _SYMBOLIC_LINK: Kind.SYMBOLIC_LINK}.get(header.type, Kind.UNKNOWN)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
