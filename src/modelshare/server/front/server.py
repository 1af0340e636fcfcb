"""The HTTP server on the public port: accepts connections, enforces limits, and shuts down gracefully."""

import asyncio
import contextlib
import email.utils
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from starlette.types import ASGIApp

from modelshare.server.background import Loop
from modelshare.server.front import refusals
from modelshare.server.front.connection import Connection
from modelshare.server.front.exchange import Exchange, Handler
from modelshare.server.front.room import Room
from modelshare.server.front.websocket import CLOSE_SECONDS, WebSocket
from modelshare.server.settings import Settings

BACKLOG: Final = 4096
_SWEEP_SECONDS: Final = 0.25
_LEAVE_SECONDS: Final = 1.0
"""Time for the application to notice that its clients have disconnected."""
_MAX_CONNECTIONS: Final = 50_000
"""Default maximum."""

Kind = TypeVar("Kind", Connection, WebSocket)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of every connection; seconds."""

    head_seconds: float
    idle_seconds: float
    stalled_seconds: float
    stop_seconds: float


class Front:
    """The HTTP server of one process."""

    def __init__(
        self, app: ASGIApp, settings: Settings, handler: Callable[[Exchange], Handler | None] | None = None
    ) -> None:
        """`handler` returns the handler of a request, or None for one that the ASGI application answers."""
        self.loop = asyncio.get_running_loop()
        self.trusted_proxies = frozenset(settings.trusted_proxies)
        self.limits = Limits(
            settings.connections_head_seconds,
            settings.connections_idle_seconds,
            settings.connections_stalled_seconds,
            settings.connections_stop_seconds,
        )
        total = settings.connections_total or _max_connections()
        self.room: Room[Connection] = Room(total, settings.connections_per_address)
        self.is_leaving = False
        """Whether clients are asked, with their next answer, to open another connection: the process stops soon."""
        self.is_stopping = False
        self._stops_now = False
        self._app = app
        self._handler = handler
        self._connections: set[Connection | WebSocket] = set()
        self._sweeping = Loop(
            "end connections that are overdue",
            self._sweep,
            every=_SWEEP_SECONDS,
            is_idle=lambda: not self._connections,
        )
        self._tasks: dict[asyncio.Task[None], Exchange | WebSocket] = {}
        self._second, self._date = 0, b""

    @asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serves on the bound socket while the block runs. Then pending responses get some time to finish.

        WebSockets are closed after that, since responses may depend on them.
        """
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        server = await self.loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)
        await self._sweeping.start()
        try:
            yield
        finally:
            server.close()
            await self._stop()
            await self._sweeping.stop()

    def leave(self) -> None:
        """Asks clients to turn to other processes; requests are still answered."""
        self.is_leaving = True

    def stop_now(self) -> None:
        """Ends answers in progress at once when serving ends."""
        self._stops_now = True

    # Called by connections.

    def run(self, asked: Exchange | WebSocket) -> None:
        """Runs the application."""
        if isinstance(asked, Exchange) and self._handler is not None:
            asked.handler = self._handler(asked)
            if asked.handler is not None:
                asked.handler.begin()
                return
        task = self.loop.create_task(asked.run(self._app))
        self._tasks[task] = asked
        task.add_done_callback(self._tasks.pop)

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._sweeping.resume()
        if self.is_stopping and not self.is_leaving:  # it was accepted just before
            connection.abort()
            return
        if len(self._connections) > self.room.total:
            for each in self.room.make(len(self._connections)):
                each.refuse(refusals.full())
            if len(self._connections) > self.room.total:
                connection.refuse(refusals.full())

    def became(self, connection: Connection, link: WebSocket) -> None:
        self._connections.discard(connection)
        self._connections.add(link)

    def closed(self, connection: Connection | WebSocket) -> None:
        self._connections.discard(connection)

    def date(self) -> bytes:
        """Value of the `Date` header."""
        now = int(time.time())
        if now != self._second:
            self._second, self._date = now, email.utils.formatdate(now, usegmt=True).encode()
        return self._date

    async def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [each for each in self._connections if each.deadline <= now]:
            connection.overdue(now)
        for stranger in self.room.beyond(now):
            stranger.refuse(refusals.crowded())

    async def _stop(self) -> None:
        self.is_stopping = True
        await self._while(self._is_waited_for, self.limits.stop_seconds)
        for connection in self._of(Connection):
            connection.refuse(refusals.stopping())
        await self._while(lambda: bool(self._of(Connection)), _LEAVE_SECONDS)
        if left := [task for task, asked in self._tasks.items() if isinstance(asked, Exchange)]:
            await asyncio.wait(left, timeout=_LEAVE_SECONDS)
        for link in self._of(WebSocket):
            link.end()
        await self._while(lambda: bool(self._connections), CLOSE_SECONDS)
        for link in self._of(WebSocket):
            link.abort()

    def _is_waited_for(self) -> bool:
        """Whether an answer is in progress, or a request that makes progress; closes idle connections."""
        now = self.loop.time()
        for connection in self._of(Connection):
            connection.end(now)
        return not self._stops_now and any(each.is_busy(now) for each in self._connections)

    def _of(self, kind: type[Kind]) -> list[Kind]:
        return [each for each in self._connections if isinstance(each, kind)]

    async def _while(self, lasts: Callable[[], bool], seconds: float) -> None:
        deadline = self.loop.time() + seconds
        while lasts() and self.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # polls all of them, rather than an event of each


def _max_connections() -> int:
    """Three quarters of the open files that the operating system allows; the rest is for everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(files - files // 4, _MAX_CONNECTIONS) if files > 0 else _MAX_CONNECTIONS


def raise_file_limit() -> None:
    """Raises the soft limit of open files to the hard limit, since every connection is an open file."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems report more than they allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
