"""One HTTP request and its response, between the connection and the application.

The application is an ASGI 2.3 application, which runs in a task, or a `Handler`, which is called when something
happens.
"""

import asyncio
import os
import re
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, Final, Protocol

import structlog
from starlette.types import ASGIApp, Message

from modelshare.server import outages
from modelshare.server.front import refusals
from modelshare.server.front.receiving import LEAST, TAKE_BODY, RequestBody

log = structlog.get_logger()

PATHSEND: Final = "http.response.pathsend"
_MAX_UNREAD: Final = 256 << 10
"""Bytes of a body that are buffered before reading from the client pauses."""
_WITHOUT_BODY: Final = frozenset({204, 304})
_FINAL: Final = range(200, 600)
_NO_HEADERS: Final = "The response has no headers."
_BREAK: Final = re.compile(rb"[\0\r\n]")


class Wire(Protocol):
    """The connection, as an exchange uses it."""

    @property
    def is_blocked(self) -> bool:
        """Whether the send buffer is full."""
        ...

    def date(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None:
        """Waits while the send buffer is full. Returns when the client disconnects."""
        ...

    async def send_file(self, file: int, size: int) -> int:
        """Sends the first `size` bytes and returns how many were sent: fewer if the file ends or the client leaves."""
        ...

    def read_on(self) -> None:
        """Resumes reading the body."""
        ...

    def take_body(self, first: bytes, left: int) -> RequestBody | None:
        """As `Exchange.take_body`. `first` was already read; `left` bytes follow."""
        ...

    def answered(self) -> None:
        """The whole response was passed on."""
        ...

    def failed(self) -> None:
        """The application failed to send the whole response."""
        ...


class Handler(Protocol):
    """Handles one request in callbacks, which must not raise."""

    def begin(self) -> None:
        """The headers have arrived, and possibly more."""
        ...

    def arrived(self) -> None:
        """There is more of the body, or it is complete."""
        ...

    def writable(self) -> None:
        """The client reads again."""
        ...

    def gone(self) -> None:
        """The client has disconnected."""
        ...


class Exchange:
    """A request from its headers on, and its response."""

    __slots__ = (
        "_bodiless",
        "_body",
        "_chunked",
        "_expects",
        "_fed",
        "_head",
        "_news",
        "_told",
        "_unread",
        "_unsent",
        "_unwritten",
        "_wire",
        "answered",
        "complete",
        "gone",
        "handler",
        "is_stream",
        "keep_alive",
        "scope",
        "started",
    )

    def __init__(self, wire: Wire, scope: MutableMapping[str, Any], *, keep_alive: bool, expects: bool) -> None:
        """`expects`: the client waits for `100 Continue` before it sends its body."""
        self.scope = scope
        self.keep_alive = keep_alive
        self.complete = False
        """Whether the whole request was received."""
        self.started = False
        """Whether a part of the response was sent, so that it cannot be replaced by an error."""
        self.answered = False
        """Whether the whole response was passed on."""
        self.gone = False
        """Whether the client has disconnected."""
        self.is_stream = False
        """Whether the response is an event stream."""
        self.handler: Handler | None = None
        self._wire = wire
        self._expects = expects
        self._body: list[bytes] = []
        self._unread = self._fed = 0
        self._told = False
        self._news: asyncio.Event | None = None
        """Set when `receive` has something to return; a handler needs none."""
        self._head = b""
        self._unwritten = bytearray()
        self._bodiless = self._chunked = False
        self._unsent: int | None = None
        """Remaining bytes of the announced length."""

    @property
    def is_open_ended(self) -> bool:
        """Whether the response has started without an announced length."""
        return self.started and self._unsent is None

    def feed(self, data: bytes) -> bool:
        """Takes a part of the request's body. Returns True if the connection should pause reading."""
        if self.answered or self.gone:
            return False
        self._body.append(data)
        self._unread += len(data)
        self._fed += len(data)
        self._wake()
        return self._unread > _MAX_UNREAD

    def end_of_request(self) -> None:
        self.complete = True
        self._wake()

    def leave(self) -> None:
        """The client has disconnected, or gets no response."""
        if self.gone:
            return
        self.gone = True
        self._wake()
        handler, self.handler = self.handler, None
        if handler is not None and not self.answered:
            handler.gone()

    # For a handler.

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        found: Sequence[tuple[bytes, bytes]] = self.scope["headers"]
        return found

    @property
    def is_blocked(self) -> bool:
        """Whether the client reads too slowly."""
        return self._wire.is_blocked

    def take(self) -> bytes:
        """The part of the body that has arrived since the last call."""
        self.go_on()
        if not self._body:
            return b""
        return self._take()

    async def drain(self) -> None:
        """Waits while the client reads too slowly. Returns when it disconnects."""
        await self._wire.drain()

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begins the response. Its headers are sent together with the first part of the body."""
        if self.gone:
            return
        if self._head or self.started:
            raise RuntimeError("The response has already started.")
        if status not in _FINAL:
            raise RuntimeError(f"{status} is not a valid status.")
        lines = [refusals.status_line(status), b"date: ", self._wire.date(), b"\r\n"]
        values = []
        for given, value in headers:
            name = given.lower()
            values.append(value)
            if name == b"content-length":
                self._unsent = int(value)
            elif name == b"content-type":
                self.is_stream = value.startswith(b"text/event-stream")
            lines += (name, b": ", value, b"\r\n")
        if _BREAK.search(b"".join(values)):  # one search for all is faster
            broken = [value for value in values if _BREAK.search(value)]
            raise RuntimeError(f"A header contains a line break: {broken!r}.")
        self._bodiless = self.scope["method"] == "HEAD" or status in _WITHOUT_BODY
        if self._bodiless:
            self._unsent = 0
        elif self._unsent is None:
            self._chunked = self.scope["http_version"] == "1.1"
            lines += (b"transfer-encoding: chunked\r\n",) if self._chunked else ()
        # The rest of the request would have to be read before the next one.
        self.keep_alive = self.keep_alive and self.complete and (self._chunked or self._unsent is not None)
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self._head = b"".join(lines)

    def write(self, data: bytes, *, more: bool) -> None:
        """Sends a part of the body without waiting. `more`: it is not the last one.

        Parts are joined while the client reads too slowly, so that many small ones weigh no more than their bytes.
        """
        if self.gone:
            return
        if more and self.started and self._wire.is_blocked:
            self._unwritten += data
            return
        if self._unwritten:
            data, self._unwritten = bytes(self._unwritten) + data, bytearray()
        self._write(data, more=more)

    def flush(self) -> None:
        """Sends what waited for the client to read."""
        if self._unwritten and not self.gone:
            data, self._unwritten = bytes(self._unwritten), bytearray()
            self._write(data, more=True)

    def abort(self) -> None:
        """Ends an incomplete response: the client must not mistake a part for the whole."""
        if not self.gone and not self.answered:
            self._wire.failed()

    async def run(self, app: ASGIApp) -> None:
        """Runs the application."""
        self.scope["extensions"] = {**self.scope["extensions"], TAKE_BODY: self.take_body}
        try:
            await app(self.scope, self.receive, self.send)
            if not self.answered and not self.gone:
                raise RuntimeError("The application did not send the whole response.")  # noqa: TRY301 - logged below
        except Exception as error:
            if not self.gone and outages.outage_of(error) is not None:
                outages.report("an answer broke off", error, path=self.scope["path"])
            elif not self.gone:
                log.error("request failed", path=self.scope["path"], method=self.scope["method"], exc_info=error)  # noqa: TRY400 - with more to say
        finally:
            if not self.answered and not self.gone:
                self._wire.failed()

    def take_body(self) -> RequestBody | None:
        """The body, to be read directly from the socket; None if it is short, already received, or of unknown length.

        For None, `receive` returns the body.
        """
        length = dict(self.scope["headers"]).get(b"content-length", b"")
        left = int(length) - self._fed if length.isdigit() else 0
        if self.gone or self.answered or self.complete or left < LEAST:
            return None
        if (body := self._wire.take_body(b"".join(self._body), left)) is not None:
            self._body, self._unread = [], 0
        return body

    def go_on(self) -> None:
        """Sends `100 Continue` to a client that waits for it."""
        if self._expects and not self.started:
            self._expects = False
            self._wire.write(refusals.CONTINUE)

    async def receive(self) -> Message:
        self.go_on()
        while not self.gone and not self.answered:
            if self._body or (self.complete and not self._told):
                self._told = self.complete
                return {"type": "http.request", "body": self._take(), "more_body": not self.complete}
            self._news = asyncio.Event()
            await self._news.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone:
            return
        if self.answered:
            raise RuntimeError("The response has already ended.")
        kind = message["type"]
        if kind == "http.response.start":
            self.start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body":
            more = message.get("more_body", False)
            self._write(message.get("body", b""), more=more)
            if more:
                await self._wire.drain()
        elif kind == PATHSEND:
            await self._send_file(message["path"])
        else:
            raise RuntimeError(f"`{kind}` is not part of a response.")

    def _take(self) -> bytes:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        is_full = self._unread > _MAX_UNREAD  # then `feed` had reading paused
        self._body, self._unread = [], 0
        if is_full:
            self._wire.read_on()
        return body

    def _write(self, data: bytes, *, more: bool) -> None:
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = b"".join((b"%x\r\n" % len(data), data, b"\r\n" if more else b"\r\n0\r\n\r\n")) if data else data
            data = data or (b"" if more else b"0\r\n\r\n")
        elif self._unsent is not None:
            self._unsent -= len(data)
            if self._unsent < 0 or (self._unsent and not more):
                raise RuntimeError("The response's body does not have the announced length.")
        if not self.started:
            self._send_head(data)
        elif data:
            self._wire.write(data)
        if not more:
            self._end()

    async def _send_file(self, path: str) -> None:
        """The whole file is the body."""
        if not (self._head or self.started):
            raise RuntimeError(_NO_HEADERS)
        size = self._unsent or 0
        file = await asyncio.to_thread(os.open, path, os.O_RDONLY)
        if not self.started:
            self._send_head(b"")
        is_whole = await self._wire.send_file(file, size) == size
        if not is_whole and await asyncio.to_thread(os.path.getsize, path) < size:
            raise RuntimeError(f"{path} is shorter than announced.")
        if is_whole and not self.gone:  # else the client has disconnected, even if that was not noticed yet
            self._end()

    def _send_head(self, data: bytes) -> None:
        """Sends the headers, with the first part of the body."""
        if not self._head:
            raise RuntimeError(_NO_HEADERS)
        self.started = True
        head, self._head = self._head, b""
        self._wire.write(head + data)

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    def _end(self) -> None:
        self.answered, self.handler = True, None
        self._wake()
        self._wire.answered()
