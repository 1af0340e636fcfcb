"""Writes one answer to the client over ASGI."""

import json
from typing import Final

from starlette.types import Send

from modelshare.server.errors import ApiError

Headers = list[tuple[bytes, bytes]]
_JSON: Final = b"application/json"
_TRY_AGAIN: Final = frozenset({429, 503})
_RETRY_SECONDS: Final = b"5"


class Reply:
    """One answer: whole at once, or started, written and ended."""

    __slots__ = ("_events", "_send", "headers", "request_id", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.request_id = request_id
        self.headers: Headers = []
        """Sent with the answer, whether success or error."""
        self.status = 0
        """0 until it has been sent and can no longer change."""
        self._send = send
        self._events = False

    @property
    def started(self) -> bool:
        return self.status > 0

    async def whole(self, status: int, content_type: bytes, body: bytes, headers: Headers = []) -> None:  # noqa: B006 - never changed
        extra = [(b"content-length", b"%d" % len(body)), *headers]
        if status in _TRY_AGAIN and not headers:
            extra.append((b"retry-after", _RETRY_SECONDS))
        await self._start(status, content_type, extra)
        await self._send({"type": "http.response.body", "body": body})

    async def error(self, error: ApiError) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
        await self.whole(error.status, _JSON, json.dumps(error.body(), ensure_ascii=False).encode(), headers)

    async def start(self, status: int, content_type: bytes, *, events: bool) -> None:
        """Starts an answer of unknown length. `events`: a stream of events, which proxies must not buffer."""
        self._events = events
        unbuffered = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")] if events else []
        await self._start(status, content_type, unbuffered)

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def break_off(self, error: ApiError) -> None:
        """Ends an incomplete stream of events with an error event, as OpenAI's clients expect it.

        Other answers cannot contain an error: this raises `error`, and the server drops the connection, so that the
        client does not mistake a part for the whole answer.
        """
        if not self._events:
            raise error
        await self.write(b"data: " + json.dumps(error.body(), ensure_ascii=False).encode() + b"\n\n")
        await self.end()

    async def _start(self, status: int, content_type: bytes, headers: Headers) -> None:
        self.status = status
        known = [(b"content-type", content_type), (b"x-request-id", self.request_id)]
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*known, *headers, *self.headers]}
        )
