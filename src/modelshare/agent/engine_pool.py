"""HTTP/1.1 calls to engines, by callbacks on kept connections: no task and no timer for a call."""

import asyncio
import ssl
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Final, Self, cast

import httptools
from yarl import URL

from modelshare.agent.errors import AgentError

_OK: Final = 200
_IDLE_SECONDS: Final = 3.0
"""Idle connections are closed before engines do so: uvicorn has the shortest timeout, 5 s."""
_CONNECT_SECONDS: Final = 5.0
_END_SECONDS: Final = 0.02
"""How long to wait for the end of a response that is no longer needed, so that its connection can be reused."""
_MAX_HEAD_BYTES: Final = 64 << 10
"""Bytes of a response's head, and of what is between two pieces of its body."""


class EngineUnreachableError(AgentError):
    """No connection to the engine could be made."""


class EngineLostError(AgentError):
    """The engine broke off its response, or sent something that is not HTTP."""


class EngineCall(ABC):
    """One request to an engine, begun by `EnginePool.send`. Whatever a callback raises ends the call as `on_failure`.

    `close` ends it at once; the engine stops working on it when its connection closes.
    """

    # For the pool:
    is_closed = False
    connection: "_Connection | None" = None
    connecting: asyncio.Task[None] | None = None

    @abstractmethod
    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The response begins. Names of headers are in lower case."""

    @abstractmethod
    def on_body(self, data: bytes) -> None:
        """What one read of the socket brought of the body."""

    @abstractmethod
    def on_end(self) -> None:
        """The response is complete."""

    @abstractmethod
    def on_failure(self, error: Exception) -> None:
        """The call ended early."""

    def close(self) -> None:
        """Ends the call: nothing is called back any more."""
        self.is_closed = True
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.connection is not None:
            self.connection.abort()

    def finish(self) -> None:
        """Like `close`, when only the end of the response is missing: the connection is kept if that comes soon."""
        self.is_closed = True
        if self.connection is not None:
            self.connection.discard_rest()

    def pause(self) -> None:
        """Stops reading, and with it the engine."""
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()


class EnginePool:
    """Kept connections to engines. Their number is not limited here, since the server limits requests."""

    def __init__(self, *, keep: bool = True) -> None:
        """`keep`: reuse connections."""
        self._keep = keep
        self._origins: dict[str, _Origin] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for origin in self._origins.values():
            origin.close()

    def send(self, call: EngineCall, base_url: str, route: str, headers: Mapping[str, str], body: bytes) -> None:
        """Begins a call. Never calls back before it returns."""
        origin = self._origins.get(base_url)
        if origin is None:
            origin = self._origins[base_url] = _Origin(base_url, keep=self._keep)
        origin.send(call, route, headers, body)


class _Origin:
    """One engine's address, and the connections to it."""

    def __init__(self, base_url: str, *, keep: bool) -> None:
        self.url = URL(base_url)
        if self.url.raw_host is None or self.url.port is None:
            raise ValueError(f"{base_url} is not an address of an engine")
        self._host, self._port = self.url.raw_host, self.url.port
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Connection, float] = {}
        """Since when each one is idle; the one used last is at the end, and is used first."""
        self._sweep: asyncio.TimerHandle | None = None
        self._heads: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = {}
        self._authorization = ""
        if self.url.user is not None:
            secret = b64encode(f"{self.url.user}:{self.url.password or ''}".encode()).decode()
            self._authorization = f"authorization: Basic {secret}\r\n"

    def send(self, call: EngineCall, route: str, headers: Mapping[str, str], body: bytes) -> None:
        key = route, tuple(headers.items())
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = self._head(route, headers)
        request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.transport.is_closing():
                connection.send(call, request)
                return
        self.connect(call, request)

    def _head(self, route: str, headers: Mapping[str, str]) -> bytes:
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if own.count("\n") > len(headers):
            raise ValueError("a header for the engine has a line break")
        if "authorization" not in own.lower():
            own += self._authorization
        return (
            f"POST {self.url.raw_path.rstrip('/')}/{route} HTTP/1.1\r\nhost: {self.url.host_port_subcomponent}\r\n"
            "user-agent: modelshare\r\ncontent-type: application/json\r\naccept: */*\r\naccept-encoding: identity\r\n"
            f"{own}content-length: "
        ).encode()

    def connect(self, call: EngineCall, request: bytes) -> None:
        """Sends the request on a new connection."""
        call.connecting = self._loop.create_task(self._connect(call, request))

    async def _connect(self, call: EngineCall, request: bytes) -> None:
        tls = _tls() if self.url.scheme == "https" else None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=tls
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, the call has to end
            call.connecting = None
            is_network = isinstance(error, (OSError, TimeoutError))
            call.on_failure(EngineUnreachableError(f"no connection to the engine: {error}") if is_network else error)
        else:
            call.connecting = None
            connection.send(call, request)

    def keep(self, connection: "_Connection") -> None:
        """Keeps the connection open for the next call, or closes it."""
        if not self._keep:
            connection.transport.close()
            return
        self._idle[connection] = self._loop.time()
        if self._sweep is None:
            self._sweep = self._loop.call_later(_IDLE_SECONDS, self._close_idle)

    def forget(self, connection: "_Connection") -> None:
        self._idle.pop(connection, None)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._idle):
            connection.abort()

    def _close_idle(self) -> None:
        self._sweep = None
        latest = self._loop.time() - _IDLE_SECONDS
        for connection in [each for each, since in self._idle.items() if since <= latest]:
            connection.abort()
        if self._idle:
            left = max(0.05, next(iter(self._idle.values())) - latest)
            self._sweep = self._loop.call_later(left, self._close_idle)


class _Connection(asyncio.Protocol):
    """A connection to an engine: one call at a time. Callbacks of the parser only record what it found."""

    def __init__(self, origin: _Origin) -> None:
        self._origin = origin
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # as browsers and other clients read what servers send
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.transport: asyncio.Transport
        self._call: EngineCall | None = None
        self._request = b""
        """The request of the call, until the engine answers something."""
        self._is_reused = False
        self._is_discarding = False
        self._is_paused = False
        self._end_timer: asyncio.TimerHandle | None = None
        self._parts: list[bytes] = []
        self._began()

    def _began(self) -> None:
        self._status = 0
        """0 before the head, and during interim responses."""
        self._headers: dict[bytes, bytes] = {}
        self._is_head_new = False
        self._is_complete = False
        self._may_be_kept = False
        self._bytes_without_body = 0

    def send(self, call: EngineCall, request: bytes) -> None:
        self._began()
        self._call, call.connection, self._request = call, self, request
        self.transport.write(request)

    def abort(self) -> None:
        self._take_call()
        self.transport.abort()

    def discard_rest(self) -> None:
        self._take_call()
        self.resume()
        self._is_discarding = True
        self._end_timer = asyncio.get_running_loop().call_later(_END_SECONDS, self.transport.abort)

    def pause(self) -> None:
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _take_call(self) -> EngineCall | None:
        call, self._call, self._request = self._call, None, b""
        if call is not None:
            call.connection = None
        return call

    # --- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._call is None and not self._is_discarding:
            self.transport.abort()  # nothing was asked
            return
        self._request = b""
        error: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as bad:
            error = EngineLostError(f"the engine sent something that is not HTTP: {bad}")
        if self._parts:
            self._bytes_without_body = 0
        else:
            self._bytes_without_body += len(data)
            if self._bytes_without_body > _MAX_HEAD_BYTES:
                error = EngineLostError("the engine sent a head without an end")
        self._deliver(error)

    def eof_received(self) -> None:
        """A body without a length ends with its connection."""
        if self._status and not self._is_complete and self._ends_with_connection():
            self._is_complete = True
            self._deliver(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._origin.forget(self)
        if self._end_timer is not None:
            self._end_timer.cancel()
        request = self._request
        call = self._take_call()
        if call is None:
            return
        if self._is_reused and request:
            # The engine had just closed this kept connection, so nothing was processed and the request can be
            # repeated. Use a new connection, since other kept ones may be closed as well.
            self._origin.connect(call, request)
        else:
            call.on_failure(EngineLostError(f"the engine closed the connection: {exc or 'no reason given'}"))

    # --- httptools -------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:  # data after the response
            self._may_be_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._is_complete:
            return
        if status < _OK:  # 100 Continue and the like
            self._headers = {}
        else:
            self._status, self._is_head_new = status, True

    def on_body(self, data: bytes) -> None:
        if not self._is_complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._status and not self._is_complete:
            self._is_complete = True
            self._may_be_kept = self._parser.should_keep_alive()

    # ---------------------------------------------------------------------------------------------------------------

    def _ends_with_connection(self) -> bool:
        coding = self._headers.get(b"transfer-encoding", b"").lower()
        return b"content-length" not in self._headers and not coding.rstrip().endswith(b"chunked")

    def _deliver(self, error: Exception | None) -> None:
        """Passes on what one read brought. The connection is released first, so that the next call can use it."""
        call, parts, is_complete = self._call, self._parts, self._is_complete
        is_head_new, status, headers = self._is_head_new, self._status, self._headers
        self._parts, self._is_head_new = [], False
        if is_complete:
            self._release(may_be_kept=self._may_be_kept and error is None)
            error = None
        elif error is not None:
            self.abort()
        if call is None:
            return
        try:
            if is_head_new:
                call.on_head(status, headers)
            if parts and not call.is_closed:
                call.on_body(parts[0] if len(parts) == 1 else b"".join(parts))
            if is_complete and not call.is_closed:
                call.on_end()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call has to end
            error = failure
        if error is not None:
            call.close()
            call.on_failure(error)

    def _release(self, *, may_be_kept: bool) -> None:
        self._take_call()
        self._is_discarding, self._is_reused = False, True
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
        if self._is_paused:
            self.resume()
        if may_be_kept:
            self._origin.keep(self)
        else:
            self.transport.close()


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
