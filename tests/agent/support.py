"""A real storage server to pull from, with the variations and failures of real ones."""

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from modelshare.agent.cache import Cache, CachedFiles
from modelshare.agent.pull import Puller
from modelshare.agent.relay import EngineRelay
from modelshare.agent.streams import Stream
from modelshare.wire.agents import Grant, GrantFile
from modelshare.wire.link import DeploymentFile, Frame, Request

MIB = 1 << 20


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition may be about a file or another process
            await asyncio.sleep(0.005)


async def _no_wait(_: int) -> None:
    """Cuts the connection without waiting."""


class Storage:
    """Serves `files` under `/{secret}/{path}`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.url = ""
        self.secret = "0"
        """Changes when signed URLs expire."""
        self.range_support = "206"
        """How ranges are served: `206`; `200+range` as by rclone; `whole` for servers without range support."""
        self.requests: list[str] = []
        self.max_parallel: int | None = None
        """Cuts every connection while more requests than this are running."""
        self.running = 0
        self.sent: Counter[str] = Counter()
        self.cut_after: list[int] = []
        """For the next requests: cut the connection after this many bytes."""
        self.before_cut: Callable[[int], Awaitable[None]] = _no_wait
        """Awaited before a cut, with the bytes sent of this file, since a cut discards what the client has not read
        yet."""
        self.corrupt: Counter[str] = Counter()
        """How many more responses for a path have a wrong byte."""
        self.on_request: Callable[[str], Awaitable[None]] | None = None
        self.is_owner_away = False
        """Answers as the platform does while the machine that holds the files is not connected."""
        self.stall = asyncio.Event()
        self.stall_from: int | None = None
        """Responses stop at this offset of the file until `stall` is set."""

    def file(self, path: str) -> DeploymentFile:
        data = self.files[path]
        return DeploymentFile(path, len(data), hashlib.sha256(data).hexdigest())

    def manifest(self) -> list[DeploymentFile]:
        return [self.file(path) for path in self.files]

    def holding(self, deployment_id: str = "dep_1") -> CachedFiles:
        return CachedFiles(deployment_id, "sha256:" + "a" * 64, self.manifest())

    async def grant(self) -> Grant:
        files = [
            GrantFile(path=file.path, size=file.size, sha256=file.sha256, url=f"{self.url}/{self.secret}/{file.path}")
            for file in self.manifest()
        ]
        return Grant(deployment_id="dep_1", manifest_digest="sha256:" + "a" * 64, files=files, expires_at=0)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        try:
            return await self._serve(request, request.match_info["path"])
        finally:
            self.running -= 1

    async def _serve(self, request: web.Request, path: str) -> web.StreamResponse:
        self.requests.append(path)
        if self.on_request is not None:
            await self.on_request(path)
        if request.match_info["secret"] != self.secret:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        if self.is_owner_away:
            error = {"message": "The machine is not connected.", "type": "server_error", "code": "owner_away"}
            return web.json_response({"error": error}, status=503, headers={"Retry-After": "0"})
        data = self.files[path]
        start, end, status, headers = self._extent(request.headers.get("Range"), len(data))
        body = bytearray(data[start:end])
        if self.corrupt[path] > 0 and body:
            self.corrupt[path] -= 1
            body[0] ^= 255
        answer = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(body))})
        await answer.prepare(request)
        await self._send(answer, request, path, start, bytes(body))
        return answer

    async def _send(self, answer: web.StreamResponse, request: web.Request, path: str, start: int, body: bytes) -> None:
        cut = self.cut_after.pop(0) if self.cut_after else None
        for at in range(0, len(body), 64 * 1024):
            if self.max_parallel is not None and self.running > self.max_parallel:
                cut = at
            if cut is not None and at >= cut:
                assert request.transport is not None
                await self.before_cut(self.sent[path])
                request.transport.abort()
                return
            if self.stall_from is not None and start + at >= self.stall_from:
                await self.stall.wait()
            piece = body[at : at + 64 * 1024]
            await answer.write(piece)
            self.sent[path] += len(piece)

    def _extent(self, header: str | None, size: int) -> tuple[int, int, int, dict[str, str]]:
        if header is None or self.range_support == "whole":
            return 0, size, 200, {}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", header)
        assert match
        start, last = int(match[1]), int(match[2])
        status = 206 if self.range_support == "206" else 200
        return start, last + 1, status, {"Content-Range": f"bytes {start}-{last}/{size}"}


class Outgoing:
    """Takes a stream's frames as a link with unlimited space does."""

    is_full = False

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame | None] = asyncio.Queue()

    def post(self, frame: Frame) -> None:
        self.frames.put_nowait(frame)

    def when_space(self, callback: Callable[[], None]) -> None:
        raise AssertionError("it is never full")


async def relayed(relay: EngineRelay, request: Request, body: bytes | None = None) -> AsyncGenerator[Frame, None]:
    """The frames with which the relay answers, as they come. Cancels the request if it is closed before the end."""
    outgoing = Outgoing()
    stream = Stream(request, outgoing, lambda _: outgoing.frames.put_nowait(None))
    stream.body = request.body if body is None else body
    relay.serve(stream)
    try:
        while (frame := await outgoing.frames.get()) is not None:
            yield frame
    finally:
        stream.close()


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serves the app on a free loopback port; yields its base URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def storage_server() -> AsyncIterator[Storage]:
    storage = Storage()
    app = web.Application()
    app.router.add_get("/{secret}/{path:.+}", storage.serve)
    async with serving(app) as storage.url:
        yield storage


@asynccontextmanager
async def pulling(folder: Path, *, stall_seconds: float = 20.0) -> AsyncIterator[tuple[Cache, Puller]]:
    """A cache in `folder`, and a puller into it that retries immediately."""
    cache = Cache(folder)
    async with aiohttp.ClientSession() as http:
        puller = Puller(cache, http, stall_seconds=stall_seconds, retry_first=0.001)
        try:
            yield cache, puller
        finally:
            puller.close()
