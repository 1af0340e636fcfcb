"""CORS: lets pages of other sites call the API and inference, if enabled.

Never with cookies: such pages need a key, and gain nothing from a user who is signed in here.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATHS: Final = re.compile(r"(/proj_[^/]+(/[^/]+)?)?/v1(/.*)?")
_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_EXPOSED: Final = (
    b"X-Request-Id, Retry-After, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_NAMES: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]*")
_MAX_AGE: Final = b"600"
"""Seconds for which a browser may cache the response to a preflight request."""


class Cors:
    """Adds the headers that let pages of these origins read responses."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """`*` is every origin."""
        self._app = app
        self._is_open = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _PATHS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        allowed = self._allowed(headers)
        if allowed and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            asked = headers.get(b"access-control-request-headers", b"")
            answers = [*allowed, (b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE)]
            if asked and _NAMES.fullmatch(asked):
                answers.append((b"access-control-allow-headers", asked))
            await send({"type": "http.response.start", "status": 204, "headers": answers})
            await send({"type": "http.response.body"})
            return

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._of_answers(allowed)]
            await send(message)

        await self._app(scope, receive, send_allowed)

    def of_answers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers for answers to a request with these headers."""
        return self._of_answers(self._allowed(dict(headers)))

    @staticmethod
    def _of_answers(allowed: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        exposed = [(b"access-control-expose-headers", _EXPOSED)] if allowed else []
        return [*allowed, *exposed, (b"vary", b"Origin")]

    def _allowed(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """The headers for this request; empty if its origin is not allowed."""
        origin = headers.get(b"origin")
        if origin is None or b"cookie" in headers or not (self._is_open or origin in self._origins):
            return []
        return [(b"access-control-allow-origin", b"*" if self._is_open else origin)]
