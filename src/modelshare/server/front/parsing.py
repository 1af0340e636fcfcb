"""Parses requests with llhttp."""

from typing import Any, Protocol

import httptools
import msgspec

from modelshare.server.front import refusals
from modelshare.server.front.request import Headers


class Head(msgspec.Struct, frozen=True):
    """A request's line and headers."""

    version: str
    method: bytes
    target: bytes
    headers: Headers
    keep_alive: bool
    """Whether another request may follow."""
    is_upgrade: bool
    """Whether it requests another protocol."""


class Taker(Protocol):
    """Receives parsed requests."""

    def head_begins(self) -> None: ...
    def head(self, head: Head) -> bool:
        """Returns True to switch to the requested protocol."""
        ...

    def body(self, data: bytes) -> None: ...
    def request_ends(self) -> None: ...


class Parser:
    """The parser of a connection."""

    __slots__ = ("_declined", "_framing", "_headers", "_parser", "_taker", "_target", "is_in_head")

    def __init__(self, taker: Taker) -> None:
        self.is_in_head = False
        self._taker = taker
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._framing = 0
        """Consecutive bytes outside of bodies."""
        self._declined: bytes | None = None
        """The head that asks for another protocol, as if it did not."""

    def close(self) -> None:
        """Ends it, and frees the connection of the cycle that both are in: the garbage collector has less to do."""
        if self._parser is not None:
            self._parser = None
            del self._taker

    def feed(self, data: bytes) -> bytes | None:
        """Parses bytes; returns those after a head that switches the protocol. Raises ApiError for an invalid
        request."""
        self._framing += len(data)
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._declined is None:
                    return data
                # The parser takes what follows for the other protocol, though some clients send a body.
                data = self._declined + data
                self._parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError as error:
                raise refusals.malformed(str(error) or "it cannot be read") from error
            else:
                break
        if self._framing > refusals.MAX_HEAD:
            raise refusals.head_too_large()
        return None

    # Called by llhttp, within `feed`.

    def on_message_begin(self) -> None:
        self._target, self._headers, self._framing = b"", [], 0
        self.is_in_head, self._declined = True, None
        self._taker.head_begins()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_in_head:  # trailers are ignored
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_in_head = False
        self._framing = 0
        parser = self._parser
        head = Head(
            parser.get_http_version(),
            parser.get_method(),
            self._target,
            self._headers,
            parser.should_keep_alive(),
            parser.should_upgrade(),
        )
        if not self._taker.head(head) and head.is_upgrade:
            self._declined = _without_upgrade(head)

    def on_chunk_header(self) -> None:
        self._framing = 0

    def on_body(self, data: bytes) -> None:
        self._framing = 0
        self._taker.body(data)

    def on_message_complete(self) -> None:
        self._framing = 0
        if self._declined is None:
            self._taker.request_ends()


def _without_upgrade(head: Head) -> bytes:
    """The head without the upgrade, which a server may ignore (RFC 9110 section 7.8)."""
    line = b"%b %b HTTP/%b\r\n" % (head.method, head.target, head.version.encode())
    return b"".join((line, *(b"%b: %b\r\n" % each for each in head.headers if each[0] != b"upgrade"), b"\r\n"))
