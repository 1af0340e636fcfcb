"""The client of an inference request: the front's `Exchange`, or one over ASGI."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from starlette.types import Message, Receive, Scope, Send

from modelshare.server.front.exchange import Handler

Headers = Sequence[tuple[bytes, bytes]]
_MAX_UNREAD: Final = 256 << 10
"""Bytes of a body that are buffered before they are taken."""
_MAX_UNSENT: Final = 64 << 10
"""Bytes of an answer beyond which the client counts as slow."""


class Client(Protocol):
    """The client's side of a request."""

    @property
    def headers(self) -> Headers: ...
    @property
    def complete(self) -> bool:
        """Whether the whole request was received."""
        ...

    @property
    def is_blocked(self) -> bool:
        """Whether the client reads too slowly."""
        ...

    def take(self) -> bytes:
        """The part of the body that has arrived since the last call."""
        ...

    async def drain(self) -> None:
        """Waits while the client reads too slowly. Returns when it disconnects."""
        ...

    def start(self, status: int, headers: Headers) -> None: ...
    def write(self, data: bytes, *, more: bool) -> None: ...
    def abort(self) -> None:
        """Ends an incomplete response: the client must not mistake a part for the whole."""
        ...


class AsgiClient:
    """The client behind an ASGI server other than our own. Drives the handler of one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: Headers = scope["headers"]
        self.complete = False
        self._receive = receive
        self._send = send
        self._body: list[bytes] = []
        self._unread = 0
        self._was_taken = asyncio.Event()
        self._messages: deque[Message] = deque()
        self._unsent = 0
        self._was_sent = asyncio.Event()
        self._news = asyncio.Event()
        self._is_over = self._is_aborted = False

    async def run(self, handler: Handler) -> None:
        """Returns when the response was sent. Raises RuntimeError to make the server drop an incomplete one."""
        reading = asyncio.ensure_future(self._read(handler))
        try:
            handler.begin()
            while not (self._is_over and not self._messages):
                while self._messages:
                    message = self._messages.popleft()
                    await self._send(message)
                    self._unsent -= len(message.get("body", b""))
                    self._was_sent.set()
                    if not self.is_blocked:
                        handler.writable()
                if not self._is_over:
                    self._news.clear()
                    await self._news.wait()
            if self._is_aborted:
                raise RuntimeError("The answer is incomplete.")
        finally:
            reading.cancel()
            handler.gone()

    async def _read(self, handler: Handler) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                handler.gone()
                self._end()
                return
            self._body.append(message.get("body", b""))
            self._unread += len(self._body[-1])
            self.complete = not message.get("more_body", False)
            handler.arrived()
            while self._unread > _MAX_UNREAD:
                self._was_taken.clear()
                await self._was_taken.wait()

    # Called by the handler.

    @property
    def is_blocked(self) -> bool:
        return self._unsent > _MAX_UNSENT

    async def drain(self) -> None:
        while self.is_blocked and not self._is_over:
            self._was_sent.clear()
            await self._was_sent.wait()

    def take(self) -> bytes:
        body, self._body, self._unread = b"".join(self._body), [], 0
        self._was_taken.set()
        return body

    def start(self, status: int, headers: Headers) -> None:
        self._put({"type": "http.response.start", "status": status, "headers": list(headers)})

    def write(self, data: bytes, *, more: bool) -> None:
        self._unsent += len(data)
        self._put({"type": "http.response.body", "body": data, "more_body": more})
        if not more:
            self._end()

    def abort(self) -> None:
        self._is_aborted = True
        self._end()

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        self._news.set()

    def _end(self) -> None:
        self._is_over = True
        self._news.set()
        self._was_sent.set()
