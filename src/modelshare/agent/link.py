"""Keeps the agent connected to the server. Engines keep running while it is not."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Protocol

import aiohttp
from yarl import URL

from modelshare.agent.connection import BadFrameError, Connection, LinkLostError
from modelshare.agent.errors import RemovedError, UnknownAgentError
from modelshare.agent.streams import Stream, Streams
from modelshare.transfer.tasks import run_all
from modelshare.wire.backoff import Backoff
from modelshare.wire.link import (
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    LINK_PATH,
    LOAD_SECONDS,
    MAX_DESIRED,
    OLDEST_PROTOCOL,
    PROTOCOL,
    Body,
    Cancel,
    CloseCode,
    Credit,
    DeploymentLoad,
    Desired,
    Frame,
    FromServer,
    Hello,
    Ping,
    Request,
    Welcome,
    close_reason,
)
from modelshare.wire.verdict import Verdict

_log = logging.getLogger(__name__)

RETRY_FIRST: Final = 0.1
RETRY_CAP: Final = 5.0
_PAUSES: Final[Mapping[int, float]] = {CloseCode.SUSPENDED: 30.0, CloseCode.PROTOCOL: 60.0, CloseCode.REPLACED: 60.0}
"""Seconds before reconnecting after closes for which an immediate retry would not help. A replaced process waits long:
it may have been replaced by its own new connection, and two processes with one identity must not fight."""
_ADVICE: Final[Mapping[int, str]] = {
    CloseCode.PROTOCOL: " Update whichever is older, the server or this agent.",
    CloseCode.REPLACED: " If another process uses this agent's identity, stop it, or enrol one of them again.",
}
_CONNECT_SECONDS: Final = 15.0
_GOODBYE_SECONDS: Final = 1.0


class LinkHandler(Protocol):
    """The agent, as seen by the link."""

    def hello(self) -> Hello:
        """The first frame."""

    def desired(self, desired: Desired) -> None:
        """Called with the complete desired state, which may be unchanged."""

    def welcomed(self, welcome: Welcome) -> None:
        """Called when the server has accepted the connection."""

    def serve(self, stream: Stream) -> None:
        """Begins to answer a request."""

    async def verdict(self) -> Verdict | None:
        """The platform's signed answer whether the agent is in the fleet; a bare refusal may come from anyone."""


class Link:
    """`run` keeps one connection open; `post` sends on it if there is one."""

    def __init__(
        self,
        url: str,
        token: str,
        handler: LinkHandler,
        *,
        loads: Callable[[], list[DeploymentLoad]] = list,
        heartbeat: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_AFTER_SECONDS,
        retry_first: float = RETRY_FIRST,
        pauses: Mapping[int, float] = _PAUSES,
    ) -> None:
        """`loads`: how busy the engines are now."""
        self._url = URL(url.rstrip("/") + LINK_PATH)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._handler = handler
        self._loads = loads
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._backoff = Backoff(retry_first, RETRY_CAP)
        self._pauses = pauses
        self._connection: Connection | None = None

    def post(self, frame: Frame) -> bool:
        """Queues a frame. Returns False if there is no connection; then the frame is lost."""
        if self._connection is None:
            return False
        self._connection.post(frame)
        return True

    async def flush(self) -> None:
        """Waits until posted frames have been sent or the connection is lost."""
        while (connection := self._connection) is not None and connection.busy:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Connects and reconnects forever.

        Raises StopError only if a signed verdict of the platform stops the agent.
        """
        while True:
            try:
                await self._connect_once()
            except LinkLostError as lost:
                if lost.is_refusal:
                    _stop_if_final(await self._handler.verdict())
                pause = self._pauses.get(lost.close_code or 0)
                delay = self._backoff.next() if pause is None else Backoff(pause, pause).next()
                _log.warning(
                    "Connection to %s lost: %s.%s Reconnecting in %.1f s.",
                    self._url.origin(),
                    lost.reason.removesuffix("."),
                    _ADVICE.get(lost.close_code or 0, ""),
                    delay,
                )
                await asyncio.sleep(delay)

    async def _connect_once(self) -> None:
        async with aiohttp.ClientSession(trust_env=True) as http:
            socket = await self._open(http)
            connection = Connection(socket, heartbeat=self._heartbeat, dead_after=self._dead_after)
            streams = Streams(connection, self._handler.serve)
            connection.post(self._handler.hello())
            goodbye = LinkLostError("", CloseCode.GOING_AWAY)
            try:
                await run_all(
                    [
                        connection.read(self._receiver(connection, streams)),
                        connection.write(),
                        connection.beat(),
                        self._report_loads(connection),
                    ]
                )
            except BadFrameError as bad:
                goodbye = bad
                raise
            finally:
                self._connection = None
                await streams.close()
                await _close(socket, goodbye)

    def _receiver(self, connection: Connection, streams: Streams) -> Callable[[FromServer], None]:
        def receive(frame: FromServer) -> None:
            if isinstance(frame, Request | Body | Credit | Cancel):
                streams.on_frame(frame)
            elif isinstance(frame, Desired):
                self._backoff.reset()
                self._apply(frame)
            elif isinstance(frame, Welcome):
                _check_protocol(frame)
                connection.set_protocol(frame.protocol)
                self._handler.welcomed(frame)
                self._connection = connection
                _log.info("Connected to %s as %s.", self._url.origin(), frame.name)

        return receive

    async def _report_loads(self, connection: Connection) -> None:
        told: list[DeploymentLoad] = []
        while True:
            if (loads := self._loads()) != told:
                connection.post(Ping(loads))
                told = loads
            await asyncio.sleep(LOAD_SECONDS)

    def _apply(self, desired: Desired) -> None:
        try:
            self._handler.desired(desired)
        except Exception as error:
            _log.exception("The desired state from the server could not be applied.")
            raise LinkLostError("the desired state from the server could not be applied") from error

    async def _open(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await http.ws_connect(self._url, headers=self._headers, max_msg_size=MAX_DESIRED)
        except aiohttp.WSServerHandshakeError as refused:
            is_refusal = refused.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
            raise LinkLostError(f"the server answered HTTP {refused.status}", is_refusal=is_refusal) from refused
        except TimeoutError as error:
            raise LinkLostError(f"no answer within {_CONNECT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise LinkLostError("it cannot be reached") from error


def _check_protocol(welcome: Welcome) -> None:
    if not OLDEST_PROTOCOL <= welcome.protocol <= PROTOCOL:
        older = "this agent" if welcome.protocol > PROTOCOL else "the server"
        ours = f"this agent {OLDEST_PROTOCOL} to {PROTOCOL}"
        raise BadFrameError(
            f"the server speaks version {welcome.protocol} of the link protocol, {ours}: {older} is too old"
        )


def _stop_if_final(verdict: Verdict | None) -> None:
    if verdict is Verdict.REMOVED:
        raise RemovedError("This agent was removed from the server. Its weights are deleted.")
    if verdict is Verdict.UNKNOWN:
        raise UnknownAgentError(
            "The server does not know this agent. To enrol it again, delete identity.json in its data folder "
            "and start it with a new join key."
        )


async def _close(socket: aiohttp.ClientWebSocketResponse, why: LinkLostError) -> None:
    """Sends a close frame without waiting long: the peer may be dead and the send buffer full."""
    code = why.close_code or CloseCode.GOING_AWAY
    closing = asyncio.create_task(socket.close(code=code, message=close_reason(why.reason).encode()))
    await asyncio.wait([closing], timeout=_GOODBYE_SECONDS)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
