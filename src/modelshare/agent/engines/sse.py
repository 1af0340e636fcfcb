"""Parses server-sent events, as bytes.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
from typing import Final

import msgspec

MAX_BYTES: Final = 16 << 20
"""Maximum size of one event; no real answer is longer."""
KEEP_ALIVE: Final = b":\n\n"
"""A comment, which only shows that the stream is alive."""
_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class Event(msgspec.Struct, frozen=True):
    """An event. `data` is None for a comment, which only shows that the stream is alive."""

    data: bytes | None
    type: bytes = b"message"


class EventTooLongError(Exception):
    """An event has more than `MAX_BYTES`."""


class EventParser:
    """Parses the events of a stream, regardless of how it was split into chunks."""

    def __init__(self) -> None:
        self.is_between_events = False
        """Whether the next byte begins an event, after at least one line."""
        self._rest = b""
        self._is_first = True
        self._after_cr = False
        self._data: list[bytes] = []
        self._type = b""
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events completed by `chunk`. Raises EventTooLongError."""
        if not chunk:
            return []
        # A CR ends its line immediately; an LF directly after it belongs to the same line end.
        text = chunk[1:] if self._after_cr and chunk.startswith(b"\n") else chunk
        self._after_cr = chunk.endswith(b"\r")
        *lines, self._rest = self._split(self._rest + text if self._rest else text)
        events: list[Event] = []
        for line in lines:
            self._read(line, events)
        self.is_between_events = not (self._rest or self._data or self._type or self._after_cr or self._is_first)
        if len(self._rest) + self._size > MAX_BYTES:
            raise EventTooLongError
        return events

    def finish(self) -> list[Event]:
        """The rest of the events at the end of the stream; some servers omit the last blank line."""
        events: list[Event] = []
        for line in (self._rest, b"") if self._rest else (b"",):
            self._read(line, events)
        self._rest = b""
        return events

    @staticmethod
    def _split(text: bytes) -> list[bytes]:
        return _LINE_END.split(text) if b"\r" in text else text.split(b"\n")

    def _read(self, line: bytes, events: list[Event]) -> None:
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(Event(_utf8(b"\n".join(self._data)), self._type or b"message"))
            self._data, self._type, self._size = [], b"", 0
            return
        name, _, value = line.partition(b":")
        if not name:
            events.append(Event(None))
        elif name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
        elif name == b"event":
            self._type = value.removeprefix(b" ")


def data_event(data: bytes) -> bytes:
    """An event with one line of data."""
    return b"data: " + data + b"\n\n"


def _utf8(data: bytes) -> bytes:
    """Replaces invalid UTF-8, as the specification requires."""
    return data if data.isascii() else data.decode("utf-8", "replace").encode()
