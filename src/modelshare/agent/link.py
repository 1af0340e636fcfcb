"""Keeps the agent connected to the processes of the server. Engines keep running while it is not."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

import aiohttp
import msgspec
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
    LINKED_HEADER,
    MAX_DESIRED,
    MAX_LINKS,
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

LOAD_SECONDS: Final = 1.0
"""How often it may be said how busy the engines are."""
FREED_SECONDS: Final = 0.2
"""How often it may be said that one that had no free slot has one."""
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
_OTHERS_FIRST: Final = 0.05
_OTHERS_QUICK: Final = 0.2
_OTHERS_CAP: Final = 30.0
"""Seconds between attempts to reach other processes of the server, as long as there is reason to expect success, and
later: a load balancer may choose the same process for ever."""
_QUICK_TRIES: Final = 6
"""Per process."""
_SETTLE_SECONDS: Final = 2.0
"""How much one process of the server may lag behind another."""
_GOODBYE_SECONDS: Final = 1.0
_OF_STREAMS: Final = (Request, Body, Credit, Cancel)


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
    """`run` keeps a connection open to each process of the server; `post` sends on one of them if there is any.

    Requests come over all of them. The desired state is taken from the one that is sent to, so that a process that
    lags behind cannot undo what another has said.
    """

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
        self._instance = secrets.token_hex(8)
        self._handler = handler
        self._loads = loads
        self._heartbeat = heartbeat
        self._dead_after = dead_after
        self._backoff = Backoff(retry_first, RETRY_CAP)
        self._pauses = pauses
        self._links: list[Connection] = []
        """Those that were accepted, oldest first."""
        self._main: Connection | None = None
        """The one that is sent to."""
        self._processes: Sequence[str] = ()
        """Names of the processes that accept connections, as far as the server has said."""
        self._ended: asyncio.Queue[Exception] = asyncio.Queue()
        """Why connections ended after they were accepted."""
        self._changed = asyncio.Event()
        """The processes or the connections have changed."""
        self._may_link_again_at = 0.0
        self._is_alone = False
        """Whether a proxy drops the header that names the processes, so that only one connection is possible."""
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, frame: Frame) -> bool:
        """Queues a frame. Returns False if there is no connection; then the frame is lost."""
        if self._main is None:
            return False
        self._main.post(frame)
        return True

    async def flush(self) -> None:
        """Waits until posted frames have been sent or the connections are lost."""
        while any(each.busy for each in self._links):  # noqa: ASYNC110 - once, at the end
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Connects and reconnects forever.

        Raises StopError only if a signed verdict of the platform stops the agent.
        """
        try:
            await run_all([self._stay_connected(), self._connect_to_others()])
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stay_connected(self) -> None:
        while True:
            try:
                if not self._links:
                    await self._connect()
                raise await self._ended.get()
            except LinkLostError as lost:
                if lost.is_refusal:
                    _stop_if_final(await self._handler.verdict())
                pause = self._pauses.get(lost.close_code or 0)
                if pause is not None:
                    self._may_link_again_at = asyncio.get_running_loop().time() + pause
                if self._links:
                    _log.info("One of several connections to %s lost: %s", self._url.origin(), lost.reason)
                    continue
                delay = self._backoff.next() if pause is None else Backoff(pause, pause).next()
                _log.warning(
                    "Connection to %s lost: %s.%s Reconnecting in %.1f s.",
                    self._url.origin(),
                    lost.reason.removesuffix("."),
                    _ADVICE.get(lost.close_code or 0, ""),
                    delay,
                )
                await asyncio.sleep(delay)

    async def _connect_to_others(self) -> None:
        """Connects to the other processes of the server: again and again, until the load balancer has chosen each."""
        backoff = Backoff(_OTHERS_FIRST, _OTHERS_CAP)
        while True:
            self._changed.clear()
            if self._missing():
                try:
                    await self._connect()
                    backoff.reset()
                    continue
                except LinkLostError as lost:
                    _log.debug("Not connected to another process of the server: %s", lost.reason)
                seconds = backoff.next()
                if backoff.failures < _QUICK_TRIES * len(self._processes):
                    seconds = min(seconds, _OTHERS_QUICK)
            else:
                backoff.reset()
                seconds = _OTHERS_CAP
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
                    backoff.reset()

    def _missing(self) -> bool:
        """Whether there is a process to which no connection is open, and one may be opened."""
        linked = {each.process for each in self._links}
        staying = [each for each in self._links if not each.is_leaving]
        return (
            bool(self._links)
            and not self._is_alone
            and "" not in linked
            and len(staying) < MAX_LINKS
            and not linked.issuperset(self._processes)
            and asyncio.get_running_loop().time() >= self._may_link_again_at
        )

    async def _connect(self) -> None:
        """Opens a connection; returns once the server has accepted it. Raises LinkLostError."""
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._serve(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait([task, accepted], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not accepted.done():
            await task  # raises why

    async def _serve(self, accepted: "asyncio.Future[None]") -> None:
        """One connection, from the handshake to its end. Raises LinkLostError if that is before it was accepted."""
        try:
            await self._serve_link(accepted)
        except Exception as error:
            if not accepted.done():
                raise
            self._ended.put_nowait(error)

    async def _serve_link(self, accepted: "asyncio.Future[None]") -> None:
        async with aiohttp.ClientSession(trust_env=True) as http:
            linked_to = {each.process for each in self._links if each.process}
            socket = await self._open(http, linked_to)
            connection = Connection(socket, heartbeat=self._heartbeat, dead_after=self._dead_after)
            streams = Streams(connection, self._handler.serve)
            connection.post(msgspec.structs.replace(self._handler.hello(), instance=self._instance))
            goodbye = LinkLostError("", CloseCode.GOING_AWAY)
            receive = self._receiver(connection, streams, accepted, linked_to)
            try:
                loads = self._report_loads(connection)
                await run_all([connection.read(receive), connection.write(), connection.beat(), loads])
            except BadFrameError as bad:
                goodbye = bad
                raise
            finally:
                if connection in self._links:
                    self._links.remove(connection)
                    self._choose_main()
                await streams.close()
                await _close(socket, goodbye)

    def _receiver(
        self,
        connection: Connection,
        streams: Streams,
        accepted: "asyncio.Future[None] | None" = None,
        linked_to: Collection[str] = (),
    ) -> Callable[[FromServer], None]:
        """`linked_to`: the processes that the server was told not to choose."""

        def receive(frame: FromServer) -> None:
            if isinstance(frame, _OF_STREAMS):
                streams.on_frame(frame)
            elif isinstance(frame, Desired):
                self._backoff.reset()
                connection.desired = frame
                if connection is self._main:
                    self._apply(frame)
            elif isinstance(frame, Ping):
                self._learn(connection, frame.processes)
            elif isinstance(frame, Welcome) and connection.process is None:
                _check_protocol(frame)
                connection.set_protocol(frame.protocol)
                connection.process = frame.process
                self._is_alone = self._is_alone or frame.process in linked_to
                self._handler.welcomed(frame)
                self._links.append(connection)
                self._choose_main()
                self._learn(connection, frame.processes)
                if accepted is not None:
                    accepted.set_result(None)
                _log.info("Connected to %s as %s%s.", self._url.origin(), frame.name, self._count())

        return receive

    async def _report_loads(self, connection: Connection) -> None:
        told: list[DeploymentLoad] = []
        since = LOAD_SECONDS
        while True:
            loads = self._loads()
            if loads != told and (since >= LOAD_SECONDS or _full(told) - _full(loads)):
                connection.post(Ping(loads=loads))
                told, since = loads, 0.0
            seconds = FREED_SECONDS if _full(told) else LOAD_SECONDS
            await asyncio.sleep(seconds)
            since += seconds

    def _count(self) -> str:
        return f" ({len(self._links)} connections)" if len(self._links) > 1 else ""

    def _learn(self, connection: Connection, processes: Sequence[str]) -> None:
        """The server has said which of its processes accept connections."""
        if processes and connection.process is not None:
            self._processes = processes
            connection.is_leaving = connection.process not in processes
            self._choose_main()

    def _choose_main(self) -> None:
        """Chooses which connection is sent to, after any change of them."""
        self._changed.set()
        before = self._main
        self._main = min(self._links, key=lambda each: each.is_leaving, default=None)
        main = self._main
        if main is None or main is before or main.desired is None:
            return
        if before is None or before.desired is None or _is_same(before.desired, main.desired):
            self._apply_if_main(main)  # which reports everything
        else:  # one of the two lags behind, and this may be the older state
            asyncio.get_running_loop().call_later(_SETTLE_SECONDS, self._apply_if_main, main)

    def _apply_if_main(self, connection: Connection) -> None:
        if connection is self._main and connection.desired is not None:
            with suppress(LinkLostError):  # it is logged
                self._apply(connection.desired)

    def _apply(self, desired: Desired) -> None:
        try:
            self._handler.desired(desired)
        except Exception as error:
            _log.exception("The desired state from the server could not be applied.")
            raise LinkLostError("the desired state from the server could not be applied") from error

    async def _open(self, http: aiohttp.ClientSession, linked_to: Collection[str]) -> aiohttp.ClientWebSocketResponse:
        headers = self._headers | ({LINKED_HEADER: ",".join(linked_to)} if linked_to else {})
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await http.ws_connect(self._url, headers=headers, max_msg_size=MAX_DESIRED)
        except aiohttp.WSServerHandshakeError as refused:
            is_refusal = refused.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
            raise LinkLostError(f"the server answered HTTP {refused.status}", is_refusal=is_refusal) from refused
        except TimeoutError as error:
            raise LinkLostError(f"no answer within {_CONNECT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise LinkLostError("it cannot be reached") from error


def _is_same(one: Desired, other: Desired) -> bool:
    return (one.deployments, one.unconfirmed) == (other.deployments, other.unconfirmed)


def _full(loads: list[DeploymentLoad]) -> set[str]:
    """The deployments that have no free slot."""
    return {each.deployment_id for each in loads if each.running + each.waiting >= each.slots}


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
