"""A Hub as others may run it: in this process, with answers that tests replace."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from served import fronted
from uploading import Files, sha256

COMMIT = "c" * 40
LARGE = 1000
"""Files of at least this many bytes have their SHA-256 in the list, as Git LFS has it."""


@dataclass
class Hub:
    """One repository, `acme/tiny`. `answer` may answer a request instead; None leaves it to the Hub."""

    files: Files
    commit: str = COMMIT
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the list says of a file instead of the truth."""
    page: int = 1000
    answer: Callable[[Request], Response | None] = lambda _: None
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests.append(request)
        response = self.answer(request) or self._answer(request)
        await response(scope, receive, send)

    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]

    def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path.startswith("/api/models/acme/tiny/revision/"):
            return JSONResponse({"sha": self.commit, "tags": ["license:mit"]})
        if path.startswith("/api/models/acme/tiny/tree/"):
            return self._tree(request)
        name = path.removeprefix(f"/acme/tiny/resolve/{self.commit}/")
        if name not in self.files:
            return JSONResponse({"error": "not found"}, 404)
        return content(request, self.files[name])

    def _tree(self, request: Request) -> Response:
        start = int(request.query_params.get("cursor", 0))
        entries = [self._entry(path, data) for path, data in self.files.items()]
        answer = JSONResponse(entries[start : start + self.page])
        if start + self.page < len(entries):
            answer.headers["Link"] = f'<{request.url.path}?recursive=true&cursor={start + self.page}>; rel="next"'
        return answer

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if len(data) >= LARGE:
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return entry | self.listed.get(path, {})


@asynccontextmanager
async def serving_hub(hub: Hub) -> AsyncIterator[Hub]:
    async with fronted(hub) as url:
        hub.url = url
        yield hub


def git_oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def content(request: Request, data: bytes) -> Response:
    """All of it, or from where the request wants it."""
    wanted = request.headers.get("range", "").removeprefix("bytes=")
    if not wanted:
        return Response(data)
    start, _, end = wanted.partition("-")
    part = data[int(start) : int(end) + 1]
    span = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
    return Response(part, 206, {"Content-Range": span})


def cut(request: Request, data: bytes, at: int) -> Response:
    """Announces all that was asked for, and breaks off after `at` bytes."""
    whole = content(request, data)

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(whole.body)[:at]
        raise ConnectionError("cut")

    return StreamingResponse(pieces(), whole.status_code, dict(whole.headers))


def without_length(data: bytes) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield data

    return StreamingResponse(pieces())
