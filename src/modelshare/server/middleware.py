"""What stands before requests: before every one, or before those for the API and the pages."""

import sys
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import anyio
import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelshare.server.errors import UnsupportedEncodingError, check_encoding

IS_HEAD: Final = "modelshare.head"
"""In a request's scope: it was a HEAD, for routes whose GET answers with something else than the content."""
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


def never_sniffed(send: Send) -> Send:
    """Every answer is of the type that it says and of no other, whatever a browser makes of its content."""

    async def send_plainly(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = (each for each in message.get("headers", ()) if each[0].lower() != _NO_SNIFF[0])
            message = {**message, "headers": [*others, _NO_SNIFF]}
        await send(message)

    return send_plainly


class RequestId:
    """Gives every answer an `X-Request-Id` to quote when something went wrong; log lines of the request carry it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)


class Head:
    """Answers HEAD as GET, without the body (RFC 9110 section 9.3.2); a stream ends before it begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.start":
                return
            await send(message)
            await send({"type": "http.response.body"})
            if not any(name.lower() == b"content-length" for name, _ in message["headers"]):
                answering.cancel()
                await anyio.lowlevel.checkpoint()

        with anyio.CancelScope() as answering:
            await self._app({**scope, "method": "GET", IS_HEAD: True}, receive, send_head)


class BodyLimit:
    """413 if a body, or its Content-Length, exceeds `limit` bytes, and 415 if it is encoded.

    FastAPI's own `max_body_size` answers with plain text, which is no error of the API and no page.
    """

    def __init__(self, app: ASGIApp, limit: int, *, unlimited: frozenset[Callable[..., Any]]) -> None:
        """`unlimited` are endpoints that count for themselves."""
        self._app = app
        self._limit = limit
        self._unlimited = unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0
        headers = dict(scope.get("headers", ()))

        async def counted() -> Message:
            nonlocal taken
            try:
                check_encoding(headers.get(b"content-encoding", b""))
            except UnsupportedEncodingError as error:  # FastAPI takes no other exceptions from here
                raise HTTPException(error.status, error.message, error.headers()) from error
            limit = sys.maxsize if scope.get("endpoint") in self._unlimited else self._limit
            announced = headers.get(b"content-length", b"")
            if announced.isdigit() and int(announced) > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)
