"""Parses records of extended headers: `LENGTH KEY=VALUE` lines, where LENGTH is that of the whole line.

Only records that determine the next entry are read. The values of others, such as extended attributes, which may be raw
bytes of any length, are skipped.
"""

from collections.abc import Iterator
from typing import Final

from modelshare.server.registry.tar.stream import Stream

_MAX_BYTES = 1 << 30
_MAX_LENGTH_DIGITS = 20
_MAX_KEY_BYTES = 64  # of those that are read
_MAX_TEXT_BYTES = 64 << 10
_MAX_MAP_BYTES = 4 << 20
_WINDOW_BYTES = 16 << 10
SPARSE: Final = b"GNU.sparse."
_MAP: Final = SPARSE + b"map"
_READ: Final = frozenset({b"path", b"linkpath", b"size"})


def records(stream: Stream, length: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys and values in the next `length` bytes, in order; None for a value that is not read.

    Raises ValueError for a malformed header.
    """
    if length > _MAX_BYTES:
        raise ValueError("header too long")
    body = _Body(stream, length)
    while body.left:
        start = body.peek(_MAX_LENGTH_DIGITS + 1 + _MAX_KEY_BYTES + 1)
        if start.startswith(b"\0"):  # some programs pad the header with zeros
            body.skip(body.left)
            return
        digits, blank, rest = start[: _MAX_LENGTH_DIGITS + 1].partition(b" ")
        if not blank or not digits.isdigit() or not len(digits) + 2 < int(digits) <= body.left:
            raise ValueError("malformed record length")
        rest = start[len(digits) + 1 : int(digits)]
        key, equals, _ = rest.partition(b"=")
        size = int(digits) - len(digits) - 1 - len(key) - 1
        if not equals and len(rest) <= _MAX_KEY_BYTES:
            raise ValueError("record without =")
        if equals and _is_read(key):
            if size > (_MAX_MAP_BYTES if key == _MAP else _MAX_TEXT_BYTES):
                raise ValueError("value too long")
            body.skip(int(digits) - size)
            line = body.take(size)
        else:
            body.skip(int(digits) - 1)
            line = body.take(1)
        if not line.endswith(b"\n"):
            raise ValueError("record without line end")
        yield key, line[:-1] if equals and _is_read(key) else None


class _Body:
    """The header's bytes, read in windows."""

    def __init__(self, stream: Stream, length: int) -> None:
        self.left = length
        self._stream = stream
        self._unread = length
        self._window = b""
        self._at = 0

    def peek(self, length: int) -> bytes:
        """The next `length` bytes, or as many as there are."""
        if len(self._window) - self._at < length and self._unread:
            more = self._stream.take(min(self._unread, max(length, _WINDOW_BYTES)))
            self._window = self._window[self._at :] + more
            self._at = 0
            self._unread -= len(more)
        return self._window[self._at : self._at + length]

    def take(self, length: int) -> bytes:
        data = self.peek(length)
        self._at += length
        self.left -= length
        return data

    def skip(self, length: int) -> None:
        while length:
            length -= len(self.take(min(length, _WINDOW_BYTES)))


def _is_read(key: bytes) -> bool:
    return key in _READ or key.startswith((SPARSE, b"GNU.volume."))
