"""Writes one answer to the client."""

import json
from typing import Final

from modelshare.server.errors import ApiError
from modelshare.server.router.clients import Client, Headers

_JSON: Final = b"application/json"
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")
_UNBUFFERED: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""For streams of events, which proxies must not buffer."""
_TRY_AGAIN: Final = frozenset({429, 503})
_RETRY: Final = (b"retry-after", b"5")


class Reply:
    """One answer: whole at once, or started, written and ended."""

    __slots__ = ("_client", "_is_events", "headers", "request_id", "status")

    def __init__(self, client: Client, request_id: bytes, headers: Headers) -> None:
        """`headers`: sent with the answer, whether success or error."""
        self.request_id = request_id
        self.headers = headers
        self.status = 0
        """0 until it has been sent and can no longer change."""
        self._client = client
        self._is_events = False

    def whole(self, status: int, content_type: bytes, body: bytes, headers: Headers = ()) -> None:
        length = (b"content-length", b"%d" % len(body))
        if status in _TRY_AGAIN and not headers:
            headers = (_RETRY,)
        self._start(status, content_type, (length, *headers))
        self._client.write(body, more=False)

    def start(self, status: int, content_type: bytes, *, is_events: bool) -> None:
        """Starts an answer of unknown length. `is_events`: a stream of events."""
        self._is_events = is_events
        self._start(status, content_type, _UNBUFFERED if is_events else ())

    def write(self, data: bytes, *, more: bool = True) -> None:
        """`more`: it is not the last part."""
        self._client.write(data, more=more)

    def error(self, error: ApiError) -> None:
        """Answers with the error, or ends an answer that has started.

        An incomplete stream of events ends with an error event, as OpenAI's clients expect it. Other answers cannot
        contain an error: the connection is dropped, so that the client does not mistake a part for the whole answer.
        """
        data = json.dumps(error.body(), ensure_ascii=False).encode()
        if not self.status:
            headers = [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
            self.whole(error.status, _JSON, data, headers)
        elif self._is_events:
            self.write(b"data: " + data + b"\n\n", more=False)
        else:
            self._client.abort()

    def _start(self, status: int, content_type: bytes, headers: Headers) -> None:
        self.status = status
        known = ((b"content-type", content_type), (b"x-request-id", self.request_id), _NO_SNIFF)
        self._client.start(status, (*known, *headers, *self.headers))
