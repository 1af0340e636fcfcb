"""The link to the server: always there, or on its way back. Everything else keeps running while it is not."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

import aiohttp
from yarl import URL

from modelshare.agent.backoff import Backoff
from modelshare.agent.connection import Connection, LinkLost
from modelshare.agent.errors import Removed, Stop
from modelshare.agent.streams import Stream, Streams
from modelshare.agent.tasks import together
from modelshare.wire.link import (
    DEAD_AFTER_SECONDS,
    HEARTBEAT_SECONDS,
    LINK_PATH,
    MAX_FRAME,
    PROTOCOL,
    Body,
    Cancel,
    CloseCode,
    Credit,
    Desired,
    Frame,
    FromServer,
    Hello,
    Request,
    Welcome,
)

_log = logging.getLogger(__name__)

RETRY_FIRST: Final = 0.1
RETRY_CAP: Final = 30.0
_CONNECT_SECONDS: Final = 15.0
_GOODBYE_SECONDS: Final = 1.0


class Served(Protocol):
    """What a link connects to the server."""

    def hello(self) -> Hello:
        """What to say first."""

    def desired(self, desired: Desired) -> None:
        """The server's whole wish, new or again."""

    async def serve(self, stream: Stream) -> None:
        """Answer one request."""


class Link:
    """`run` keeps one link; `post` says something on it, if it is there."""

    def __init__(
        self,
        url: str,
        token: str,
        served: Served,
        *,
        heartbeat: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_AFTER_SECONDS,
        retry_first: float = RETRY_FIRST,
    ) -> None:
        self._url = URL(url.rstrip("/") + LINK_PATH)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._served = served
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._backoff = Backoff(retry_first, RETRY_CAP)
        self._connection: Connection | None = None

    def post(self, frame: Frame) -> bool:
        """Queue a frame; False while there is no link, when it is lost."""
        if self._connection is None:
            return False
        self._connection.post(frame)
        return True

    async def flush(self) -> None:
        """Wait until what was posted has left, or the link is gone."""
        while (connection := self._connection) is not None and connection.busy:  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Link, again and again. Raises Stop when the server wants no link with this agent."""
        while True:
            try:
                await self._once()
            except LinkLost as lost:
                _stop_if_final(lost)
                delay = RETRY_CAP if lost.close_code == CloseCode.SUSPENDED else self._backoff.next()
                _log.warning(
                    "No link to %s: %s. Trying again in %.1f s.",
                    self._url.origin(),
                    lost.reason.removesuffix("."),
                    delay,
                )
                await asyncio.sleep(delay)

    async def _once(self) -> None:
        async with aiohttp.ClientSession(trust_env=True) as http:
            socket = await self._open(http)
            connection = Connection(socket, heartbeat=self._heartbeat, dead_after=self._dead_after)
            streams = Streams(connection.send, self._served.serve)
            connection.post(self._served.hello())
            try:
                await together(
                    [connection.read(self._receiver(connection, streams)), connection.write(), connection.beat()]
                )
            finally:
                self._connection = None
                await streams.close()
                await _close(socket)

    def _receiver(self, connection: Connection, streams: Streams) -> Callable[[FromServer], None]:
        def receive(frame: FromServer) -> None:
            if isinstance(frame, Request | Body | Credit | Cancel):
                streams.on_frame(frame)
            elif isinstance(frame, Desired):
                self._backoff.reset()
                self._served.desired(frame)
            elif isinstance(frame, Welcome):
                _check_protocol(frame)
                self._connection = connection
                _log.info("Linked to %s as %s.", self._url.origin(), frame.name)

        return receive

    async def _open(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await http.ws_connect(self._url, headers=self._headers, max_msg_size=MAX_FRAME)
        except aiohttp.WSServerHandshakeError as refused:
            if refused.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise Stop(
                    "The server does not know this agent (any more). To enroll it again, delete identity.json in its "
                    "data folder and start it with a new join key."
                ) from refused
            raise LinkLost(f"the server answered HTTP {refused.status}") from refused
        except TimeoutError as error:
            raise LinkLost(f"no answer within {_CONNECT_SECONDS:g} s") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise LinkLost("it cannot be reached") from error


def _check_protocol(welcome: Welcome) -> None:
    if welcome.protocol != PROTOCOL:
        raise Stop(f"The server speaks link protocol {welcome.protocol} and this agent {PROTOCOL}: update this agent.")


def _stop_if_final(lost: LinkLost) -> None:
    if lost.close_code == CloseCode.PROTOCOL:
        raise Stop(f"The server ended the link: {lost.reason}. Update this agent.") from lost
    if lost.close_code == CloseCode.REPLACED:
        raise Stop("Another process runs with this agent's identity; stop it, or enroll this one anew.") from lost
    if lost.close_code == CloseCode.REMOVED:
        raise Removed("This agent was removed from the server: the weights it held are deleted.") from lost


async def _close(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Say goodbye, but not for long: the peer may be dead, and the buffer before it full."""
    closing = asyncio.create_task(socket.close(code=aiohttp.WSCloseCode.GOING_AWAY))
    await asyncio.wait([closing], timeout=_GOODBYE_SECONDS)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
