"""Server-sent events, as bytes. https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream"""

import re

# Two line ends in a row. A CR at the very end may be half of a CR LF; the LF then starts the next event, as an empty
# line, which means nothing.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventSplitter:
    """Cuts a stream into its events, wherever the chunks were cut. The pieces joined are the stream, byte for byte."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of an event whose end has not come yet."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, each with the blank line that ends it."""
        # The end of an event is at most three bytes before the seam: only those are looked at again.
        start = max(0, len(self.rest) - 3)
        buffer = self.rest + chunk if self.rest else chunk
        events = []
        begin = 0
        for end in _BLANK_LINE.finditer(buffer, start):
            events.append(buffer[begin : end.end()])
            begin = end.end()
        self.rest = buffer[begin:]
        return events


def data_of(event: bytes) -> bytes | None:
    """The event's data; None for comments and other events without any."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def data_event(data: bytes) -> bytes:
    """An event of one line of data."""
    return b"data: " + data + b"\n\n"
