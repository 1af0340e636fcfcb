"""Forwards a request over HTTP from the process that the client reached to the one that the agent is connected to.

`POST /internal/v1/streams/{agent_id}/{deployment_id}/{route}` returns the frames of the stream, each preceded by its
length in four bytes. The request is signed with the platform's secret and valid for half a minute, so only processes of
the platform can send it.
"""

import asyncio
import hashlib
import hmac
import importlib
import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from starlette.types import Receive, Scope, Send

from modelshare.server.errors import PayloadTooLargeError
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import AnswerStream, StreamBrokenError
from modelshare.server.ids import parse_uuid
from modelshare.server.proven import proven
from modelshare.server.router.errors import ClientGoneError, body_too_long
from modelshare.wire.link import (
    MAX_FRAME,
    MAX_REQUEST_BODY,
    MAX_SECONDS,
    AnswerFrame,
    Chunk,
    Head,
    decode_answer,
    encode,
)

if TYPE_CHECKING:
    import aiohttp

log = structlog.get_logger()

PREFIX: Final = "/internal/v1/streams/"
_PATH: Final = re.compile(r"/internal/v1/streams/([0-9a-f-]{36})/([0-9a-f-]{36})/([a-z/]+)")
_VALID_SECONDS: Final = 30
_TIME: Final = "x-modelshare-time"
_TIMEOUT: Final = "x-modelshare-timeout"
_TENANT: Final = "x-modelshare-tenant"
_DIGEST: Final = "x-modelshare-digest"
_SIGNATURE: Final = "x-modelshare-signature"
_LENGTH: Final = struct.Struct(">I")
_WATCH_SECONDS: Final = 0.1
_MAX_ENCODED: Final = MAX_FRAME + 64
"""Bytes of a frame; joined chunks are no longer than the link's own frames."""
_NOTHING_YET: Final = _LENGTH.pack(0)
"""Sent first, and again while there is nothing else, so that the other process knows that this one works on its
request."""
_ACCEPT_SECONDS: Final = 2.0
"""How long a process may take to accept a request, beside the time for its body."""
_SLOWEST: Final = 4 << 20
"""Bytes per second between processes."""
_BEAT_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 6.0
"""A process that has sent nothing for so long hangs."""
_SKIPPED_SECONDS: Final = 5.0
"""How long a process that did not accept a request in time is not asked again."""


class Forwarder:
    """Both ends: sends requests to other processes, and answers theirs."""

    def __init__(self, links: AgentLinks, secret: bytes, clock: Callable[[], float]) -> None:
        self._links = links
        self._secret = hmac.digest(secret, b"modelshare internal streams 1", "sha256")
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None
        self._skipped: dict[str, float] = {}
        """Addresses of processes that hang, and until when they are not asked, by the event loop's clock."""

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.close()

    @asynccontextmanager
    async def request(
        self,
        target: Target,
        route: str,
        body: bytes,
        *,
        tenant: str,
        timeout: float,  # noqa: ASYNC109 - the agent's time limit, sent to it
    ) -> AsyncIterator["RemoteStream"]:
        """Sends the request to a process with the connection. Leaving the block closes it, which cancels the work.

        Raises StreamBrokenError if none of them takes it.
        """
        path = f"{PREFIX}{target.agent_id}/{target.deployment_id}/{route}"
        headers = self._signed(path, tenant, timeout, hashlib.sha256(body).hexdigest())
        answer = await self._answer(target, path, body, headers)
        stream = RemoteStream(answer.content)
        try:
            yield stream
        finally:
            stream.close()
            answer.close()

    async def _answer(
        self, target: Target, path: str, body: bytes, headers: Mapping[str, str]
    ) -> "aiohttp.ClientResponse":
        """The answer of the first process that takes the request."""
        why = "The agent is not connected to another process."
        now = asyncio.get_running_loop().time
        for address in target.addresses:
            if address == self._links.address or now() < self._skipped.get(address, 0):
                continue
            try:
                async with asyncio.timeout(_ACCEPT_SECONDS + len(body) / _SLOWEST):
                    answer = await self._session().post(address + path, data=body, headers=headers)
            except TimeoutError:
                self._skipped[address] = now() + _SKIPPED_SECONDS
                why = f"{address} is not responding."
                continue
            except (_aiohttp().ClientError, OSError):
                why = f"{address} cannot be reached."
                continue
            if answer.status == 200:  # noqa: PLR2004 - the status itself
                return answer
            answer.close()
            why = f"{address} answered {answer.status}."
        raise StreamBrokenError(why)

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers another process. 404 without a valid signature, and if the agent is not connected here."""
        asked = await self._asked(scope, receive)
        if asked is None:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            async with asked as stream:
                with watched(receive, lambda: stream.fail(ClientGoneError())):
                    await _pass_frames(stream, send)
        except ClientGoneError:
            log.debug("the requesting process has gone")

    async def _asked(self, scope: Scope, receive: Receive) -> AbstractAsyncContextManager[AnswerStream] | None:
        """The stream requested by another process. None without a valid signature or connected agent."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        named = _PATH.fullmatch(scope["path"])
        if named is None or not self._is_signed(scope["path"], headers):
            return None
        proven(scope)
        agent_id = parse_uuid(named[1])
        link = self._links.get(agent_id) if agent_id else None
        if link is None:
            return None
        try:
            body = await read_body(receive, MAX_REQUEST_BODY, 0)
        except (ClientGoneError, PayloadTooLargeError):
            return None
        if hashlib.sha256(body).hexdigest() != headers.get(_DIGEST):
            return None
        seconds, tenant = _seconds(headers.get(_TIMEOUT, "")), headers.get(_TENANT, "")
        return link.request(named[2], named[3], body, seconds, tenant) if seconds else None

    def _session(self) -> "aiohttp.ClientSession":
        if self._http is None:
            http = _aiohttp()
            self._http = http.ClientSession(
                connector=http.TCPConnector(limit=0),
                timeout=http.ClientTimeout(total=None, sock_connect=2),
                read_bufsize=1 << 20,
            )
        return self._http

    def _signed(self, path: str, tenant: str, timeout: float, digest: str) -> dict[str, str]:
        headers = {_TIME: str(int(self._clock())), _TIMEOUT: str(timeout), _TENANT: tenant, _DIGEST: digest}
        return {**headers, _SIGNATURE: self._signature(path, headers)}

    def _is_signed(self, path: str, headers: Mapping[str, str]) -> bool:
        """Checked before the body is read, so that a request without a valid signature costs little."""
        given = headers.get(_SIGNATURE, "")
        if not hmac.compare_digest(given.encode(), self._signature(path, headers).encode()):
            return False
        return abs(self._clock() - int(headers[_TIME])) <= _VALID_SECONDS

    def _signature(self, path: str, headers: Mapping[str, str]) -> str:
        text = "\n".join([path, *(headers.get(name, "") for name in (_TIME, _TIMEOUT, _TENANT, _DIGEST))])
        return hmac.new(self._secret, text.encode(), "sha256").hexdigest()


async def _pass_frames(stream: AnswerStream, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": _NOTHING_YET, "more_body": True})
    more = True
    while more:
        try:
            async with asyncio.timeout(_BEAT_SECONDS):
                frame = await stream.next()
        except TimeoutError:
            await send({"type": "http.response.body", "body": _NOTHING_YET, "more_body": True})
            continue
        data = encode(frame)
        more = isinstance(frame, Head | Chunk)
        await send({"type": "http.response.body", "body": _LENGTH.pack(len(data)) + data, "more_body": more})


class RemoteStream:
    """The frames of another process's stream, read only on request, so that flow control works end to end."""

    def __init__(self, content: "aiohttp.StreamReader") -> None:
        self._content = content
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def next(self) -> AnswerFrame:
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.wait((reading, self._failed), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self._failed.result()  # raises the error
            return await reading
        finally:
            reading.cancel()

    def fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # marks it as retrieved: there may be no further call of `next`

    def close(self) -> None:
        self._failed.cancel()

    async def _read(self) -> AnswerFrame:
        try:
            length = 0
            while not length:
                async with asyncio.timeout(_SILENT_SECONDS):
                    (length,) = _LENGTH.unpack(await self._content.readexactly(_LENGTH.size))
            if length > _MAX_ENCODED:
                raise StreamBrokenError("The process that holds the connection sent an invalid frame.")
            frame = decode_answer(await self._content.readexactly(length))
        except (
            _aiohttp().ClientError,
            asyncio.IncompleteReadError,
            msgspec.DecodeError,
            TimeoutError,
            OSError,
        ) as error:
            raise StreamBrokenError("The process that holds the connection closed it.") from error
        return frame


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= MAX_SECONDS else None


def _aiohttp() -> Any:
    # Imported on first use: it takes a tenth of the startup time, and a single process never forwards.
    return importlib.import_module("aiohttp")


async def read_body(receive: Receive, limit: int, announced: int) -> bytes:
    """The request's body. 413 if it, or its Content-Length, exceeds `limit` bytes."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and max(size, announced) <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    if max(size, announced) > limit:
        raise body_too_long(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@contextmanager
def watched(receive: Receive, gone: Callable[[], None]) -> Iterator[None]:
    """Calls `gone` if the client disconnects within the block. The request's body must have been read.

    Watching starts after a short delay, so that quick answers need no task for it.
    """
    watching: list[asyncio.Future[Any]] = []

    def watch() -> None:
        watching.append(asyncio.ensure_future(receive()))
        watching[0].add_done_callback(lambda _: gone())

    timer = asyncio.get_running_loop().call_later(_WATCH_SECONDS, watch)
    try:
        yield
    finally:
        timer.cancel()
        for future in watching:
            future.cancel()
