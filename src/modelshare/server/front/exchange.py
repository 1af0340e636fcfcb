"""One HTTP request and its answer, between the connection and the application (ASGI 2.3)."""

import asyncio
import os
import re
from collections.abc import Iterable, MutableMapping
from typing import Any, Final, Protocol

import structlog
from starlette.types import ASGIApp, Message

from modelshare.server import outages
from modelshare.server.front import refusals
from modelshare.server.front.receiving import LEAST, TAKE_BODY, RequestBody

log = structlog.get_logger()

PATHSEND: Final = "http.response.pathsend"
_MAX_UNREAD: Final = 256 << 10
"""Bytes of a body that wait for the application before the client is slowed down."""
_WITHOUT_BODY: Final = frozenset({204, 304})
_FINAL: Final = range(200, 600)
_BREAK: Final = re.compile(rb"[\0\r\n]")


class Wire(Protocol):
    """What an exchange needs of its connection."""

    def date(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None:
        """Waits while the client takes less than it is sent; no longer than it is there."""
        ...

    async def send_file(self, file: int, size: int) -> int:
        """Sends the first `size` bytes of it; those that were sent, fewer when the file or the client is not there."""
        ...

    def read_on(self) -> None:
        """There is room for more of the body."""
        ...

    def take_body(self, first: bytes, left: int) -> RequestBody | None:
        """As `Exchange.take_body`. `first` is read, `left` bytes are to come."""
        ...

    def answered(self) -> None:
        """The answer was handed over, to its end."""
        ...

    def failed(self) -> None:
        """The application cannot answer, or not to the end."""
        ...


class Exchange:
    """A request from its head on."""

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
        "_wire",
        "answered",
        "complete",
        "gone",
        "is_stream",
        "keep_alive",
        "scope",
        "started",
    )

    def __init__(self, wire: Wire, scope: MutableMapping[str, Any], *, keep_alive: bool, expects: bool) -> None:
        """`expects`: the client keeps its body back until it is told to go on."""
        self.scope = scope
        scope["extensions"] = {**scope["extensions"], TAKE_BODY: self.take_body}
        self.keep_alive = keep_alive
        self.complete = False
        """The request is here, to its end."""
        self.started = False
        """Something of the answer is on its way: no other can be given any more."""
        self.answered = False
        """To the answer's end."""
        self.gone = False
        """Nobody is there to be answered."""
        self.is_stream = False
        """The answer is a stream of events."""
        self._wire = wire
        self._expects = expects
        self._body: list[bytes] = []
        self._unread = self._fed = 0
        self._told = False
        self._news = asyncio.Event()
        self._head = b""
        self._bodiless = self._chunked = False
        self._unsent: int | None = None
        """Bytes of the length that was announced."""

    @property
    def is_open_ended(self) -> bool:
        """The answer has begun, and has said nothing of its length."""
        return self.started and self._unsent is None

    def feed(self, data: bytes) -> bool:
        """Some of the request's body. True: the connection is to read no more for now."""
        if self.answered or self.gone:
            return False
        self._body.append(data)
        self._unread += len(data)
        self._fed += len(data)
        self._news.set()
        return self._unread > _MAX_UNREAD

    def end_of_request(self) -> None:
        self.complete = True
        self._news.set()

    def leave(self) -> None:
        """The client is gone, or not to be answered any more."""
        self.gone = True
        self._news.set()

    async def run(self, app: ASGIApp) -> None:
        """Has the application answer."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.answered and not self.gone:
                raise RuntimeError("The application did not answer to the end.")  # noqa: TRY301 - one way out
        except Exception as error:
            if not self.gone and outages.outage_of(error) is not None:
                outages.report("an answer broke off", error, path=self.scope["path"])
            elif not self.gone:
                log.error("request failed", path=self.scope["path"], method=self.scope["method"], exc_info=error)  # noqa: TRY400 - with more to say
        finally:
            if not self.answered and not self.gone:
                self._wire.failed()

    def take_body(self) -> RequestBody | None:
        """The body as it comes from the socket; None where it is short, here already, or of unknown length.

        Then `receive` gives it, else no more of it.
        """
        length = dict(self.scope["headers"]).get(b"content-length", b"")
        left = int(length) - self._fed if length.isdigit() else 0
        if self.gone or self.answered or self.complete or left < LEAST:
            return None
        if (body := self._wire.take_body(b"".join(self._body), left)) is not None:
            self._body, self._unread = [], 0
        return body

    def go_on(self) -> None:
        """Tells a client that waits for it to send its body."""
        if self._expects and not self.started:
            self._expects = False
            self._wire.write(refusals.CONTINUE)

    async def receive(self) -> Message:
        self.go_on()
        while not self.gone and not self.answered:
            if self._body or (self.complete and not self._told):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body, self._unread = [], 0
                self._told = self.complete
                self._wire.read_on()
                return {"type": "http.request", "body": body, "more_body": not self.complete}
            self._news.clear()
            await self._news.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone:
            return
        if self.answered:
            raise RuntimeError("The answer has already ended.")
        kind = message["type"]
        if kind == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body":
            await self._write(message.get("body", b""), more=message.get("more_body", False))
        elif kind == PATHSEND:
            await self._send_file(message["path"])
        else:
            raise RuntimeError(f"`{kind}` is not part of an answer.")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Keeps the head until some of the body is there, so that both go out as one."""
        if self._head or self.started:
            raise RuntimeError("The answer has already started.")
        if status not in _FINAL:
            raise RuntimeError(f"{status} is not a valid status.")
        lines = [refusals.status_line(status), b"date: ", self._wire.date(), b"\r\n"]
        for given, value in headers:
            if _BREAK.search(value):
                raise RuntimeError(f"The header {given!r} contains a line break: {value!r}.")
            name = given.lower()
            if name == b"content-length":
                self._unsent = int(value)
            elif name == b"content-type":
                self.is_stream = value.startswith(b"text/event-stream")
            lines += (name, b": ", value, b"\r\n")
        self._bodiless = self.scope["method"] == "HEAD" or status in _WITHOUT_BODY
        if self._bodiless:
            self._unsent = 0
        elif self._unsent is None:
            self._chunked = self.scope["http_version"] == "1.1"
            lines += (b"transfer-encoding: chunked\r\n",) if self._chunked else ()
        # What is left of the request would have to be read before the next one.
        self.keep_alive = self.keep_alive and self.complete and (self._chunked or self._unsent is not None)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    async def _write(self, data: bytes, *, more: bool) -> None:
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = b"".join((b"%x\r\n" % len(data), data, b"\r\n" if more else b"\r\n0\r\n\r\n")) if data else data
            data = data or (b"" if more else b"0\r\n\r\n")
        elif self._unsent is not None:
            self._unsent -= len(data)
            if self._unsent < 0 or (self._unsent and not more):
                raise RuntimeError("The answer's body is not as long as it was announced.")
        self._put(data)
        if not more:
            self._end()
        else:
            await self._wire.drain()

    async def _send_file(self, path: str) -> None:
        """The whole file is the body."""
        size = self._unsent or 0
        file = await asyncio.to_thread(os.open, path, os.O_RDONLY)
        self._put(b"")
        is_whole = await self._wire.send_file(file, size) == size
        if not is_whole and await asyncio.to_thread(os.path.getsize, path) < size:
            raise RuntimeError(f"{path} is shorter than was announced.")
        if is_whole and not self.gone:  # else the client has left, whether or not that was heard
            self._end()

    def _put(self, data: bytes) -> None:
        if not self.started:
            if not self._head:
                raise RuntimeError("The answer has no head.")
            self.started = True
            data, self._head = self._head + data, b""
        if data:
            self._wire.write(data)

    def _end(self) -> None:
        self.answered = True
        self._news.set()
        self._wire.answered()
