"""All agents connected to this process: `GET /v1/agent/link`, one WebSocket per agent.

The token is checked before the handshake is answered. An agent has a connection to each process, all from one run of
its program: a connection from another run ends them, in whichever process they are. An agent that does not name its run
has one connection. The desired state is sent when it changes; reports are written in batches.
"""

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from modelshare.server import outages
from modelshare.server.audit.propagation import service as propagation
from modelshare.server.audit.propagation.service import PROCESSES_TOPIC
from modelshare.server.background import Loop, retry
from modelshare.server.db import Database
from modelshare.server.fleet import holding, presence, queries, service
from modelshare.server.fleet.link import BROKEN_CODES, AgentLink, Wire, decoded_hello
from modelshare.server.fleet.presence import LinkInfo
from modelshare.server.fleet.reports import Reports
from modelshare.server.fleet.streams import ClosedError, StreamBrokenError
from modelshare.server.fleet.topics import AGENTS_TOPIC, DESIRED_TOPIC
from modelshare.server.fleet.verdicts import Verdicts
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.front.websocket import MESSAGES
from modelshare.server.http import bearer
from modelshare.wire.agents import AgentState
from modelshare.wire.link import (
    LINKED_HEADER,
    MAX_DEPLOYMENTS,
    MAX_NAME,
    MAX_PROCESSES,
    OLDEST_PROTOCOL,
    PROTOCOL,
    CloseCode,
    Desired,
    DesiredDeployment,
    Hello,
    Ping,
    Released,
    Report,
    Welcome,
    close_reason,
)
from modelshare.wire.text import plain

log = structlog.get_logger()

_LINKED_HEADER = LINKED_HEADER.lower().encode()
_HELLO_SECONDS = 10.0
_GOODBYE_SECONDS = 1.0
_STOP_SECONDS = 2.0
"""How long connections may take to end when the process stops: the database may be unavailable."""
_RETRY_SECONDS = 1.0
_EARLY = 1000
"""Frames kept, the newest ones. Once an agent has its desired state, it reports everything again anyway."""
_HEARTBEAT_SECONDS = presence.STALE_SECONDS / 3
_SUSPENDED = ClosedError(CloseCode.SUSPENDED, "This agent is suspended. Its owner can resume it.")
_REMOVED = ClosedError(CloseCode.REMOVED, "It was removed. Enrol it again with a join key, or run `modelshare hold`.")
_LEAVING = ClosedError(CloseCode.GOING_AWAY, "The server is restarting.")
_UNKNOWN = ClosedError(CloseCode.GOING_AWAY, "The server considered this connection dead: reconnect.")
_REPLACED = ClosedError(CloseCode.REPLACED, "A newer connection of this agent took over.")


class _Linked:
    """An agent's connection and its state in this process."""

    def __init__(self, info: LinkInfo, link: AgentLink, instance: str) -> None:
        """`instance`: see `Hello`."""
        self.info = info
        self.link = link
        self.instance = instance
        self.changed = asyncio.Event()
        """Its desired state may have changed."""
        self.changed.set()
        self.desired: frozenset[str] = frozenset()
        """IDs of deployments in its desired state; reports on others are ignored."""
        self.to_delete: frozenset[str] = frozenset()
        """IDs of deployments that it was told to delete and has not confirmed."""
        self.early: deque[Report | Released] | None = deque(maxlen=_EARLY)
        """Frames received before the first desired state, when it is unknown whether they are valid; None
        afterwards."""


class AgentLinks:
    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        *,
        address: str,
        verdicts: Verdicts,
        process: str = "",
        handover_seconds: int = 0,
    ) -> None:
        """`address`: this process's URL for the other processes. `process`: its name, which is never reused.

        `handover_seconds`: how long requests wait for an agent that lost its connection.
        """
        self.address = address
        self._process = process
        self._handover_seconds = handover_seconds
        self._database = database
        self._clock = clock
        self._verdicts = verdicts
        self._linked: dict[int, list[_Linked]] = {}
        """By the number of the agent's ID. Those that the database does not know any more end in a moment."""
        self._reports = Reports(database, clock, process)
        self._heartbeats = Loop("record heartbeats", self._heartbeat, every=_HEARTBEAT_SECONDS, retry=_RETRY_SECONDS)
        self._looking = Loop("look up other processes", self._look, every=_HEARTBEAT_SECONDS, retry=_RETRY_SECONDS)
        self._processes: list[str] = []
        """Names of those that accept links."""
        self._is_leaving = False
        self._sessions: set[asyncio.Task[Any]] = set()
        database.subscribe(AGENTS_TOPIC, self._agent_changed)
        database.subscribe(DESIRED_TOPIC, self._desired_changed)
        database.subscribe(PROCESSES_TOPIC, self._looking.wake)

    async def start(self) -> None:
        async with self._database.write() as session:
            await presence.forget_links(session, self.address, now=self._now(), expected=self._handover_seconds)
        await self._look()
        await self._looking.start()
        await self._reports.start()
        await self._heartbeats.start()

    async def leave(self) -> bool:
        """Tells the agents to connect to other processes, if there are any, which it returns: this one stops soon."""
        self._is_leaving = True
        await self._look()
        self._hand_over(accepts=True)
        return bool(self._processes)

    def refuse_requests(self) -> None:
        """After `leave`: agents that are connected only here get no more requests, so that they can move."""
        self._hand_over(accepts=False)

    def _hand_over(self, *, accepts: bool) -> None:
        for linked in self._subjects() if self._processes else ():
            if not linked.instance:  # it has one connection
                linked.link.close_when_idle(_LEAVING, accepts=accepts)

    async def stop(self) -> None:
        """Ends all connections; the agents reconnect to any process. Takes a few seconds at most, even in an outage."""
        await self._looking.stop(_GOODBYE_SECONDS)
        for linked in self._subjects():
            linked.link.close(_LEAVING)
        if self._sessions:
            _, left = await asyncio.wait(self._sessions, timeout=_STOP_SECONDS)
            for task in left:  # may hang in a thread that waits for the database: then it is abandoned
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=_GOODBYE_SECONDS)
        await self._heartbeats.stop(_GOODBYE_SECONDS)
        await self._reports.stop()

    def get(self, agent_id: uuid.UUID) -> AgentLink | None:
        """The agent's connection, if it is to this process."""
        of_agent = self._linked.get(agent_id.int)
        return of_agent[-1].link if of_agent else None

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The WebSocket."""
        await receive()  # websocket.connect
        headers = dict(scope["headers"])
        linked_to = frozenset(headers.get(_LINKED_HEADER, b"").decode("latin-1").replace(" ", "").split(",")) - {""}
        if self._is_leaving or self._process in linked_to:
            await _try_again(scope, send, 503 if self._is_leaving else 421)
            return
        token = bearer(headers.get(b"authorization", b"").decode("latin-1"))
        try:
            async with self._database.read() as session:
                agent = await service.authenticate(session, token)
        except Exception as error:  # noqa: BLE001 - no error here is the agent's fault
            outages.report("cannot look up an agent that is connecting", error)
            await _try_again(scope, send, 503)
            return
        if agent is None:
            await send({"type": "websocket.close"})  # before an accept: the handshake is answered with 403
            return
        await send({"type": "websocket.accept"})
        if agent.state == AgentState.SUSPENDED:
            why = _SUSPENDED
        else:
            wire: Wire = scope["extensions"][MESSAGES]
            info = LinkInfo(agent.id, uuid.uuid4(), self._process, self.address, linked_to)
            task = asyncio.ensure_future(self._serve(info, agent.name, receive, wire))
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)
            await asyncio.wait([task])
            why = _result(task)
        # The socket may be gone: HTTP servers differ in what they raise then, and one never returns.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await send({"type": "websocket.close", "code": int(why.code), "reason": close_reason(str(why))})

    async def _serve(self, info: LinkInfo, agent_name: str, receive: Receive, wire: Wire) -> ClosedError:
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = await _hello(receive)
        except TimeoutError:
            return ClosedError(CloseCode.SILENT, "No Hello was received.")
        except ClosedError as error:
            return error
        return _no_common_protocol(hello) or await self._serve_after_hello(info, agent_name, hello, wire)

    async def _serve_after_hello(self, info: LinkInfo, agent_name: str, hello: Hello, wire: Wire) -> ClosedError:
        protocol = min(PROTOCOL, max(hello.protocol, hello.newest_protocol))
        link = AgentLink(wire, protocol, asyncio.get_running_loop().time)
        async with self._connected(info, hello, link) as linked:
            if linked is None:
                return _SUSPENDED
            try:
                await link.send(self._welcome(info, agent_name, protocol))
            except StreamBrokenError as error:
                return ClosedError(CloseCode.GOING_AWAY, str(error))
            on_frame = partial(self._on_frame, linked)
            return await link.run(on_frame, on_frame, self._send_desired(linked))

    def _welcome(self, info: LinkInfo, agent_name: str, protocol: int) -> Welcome:
        name, key = plain(agent_name, MAX_NAME), self._verdicts.key_of(str(info.agent_id))
        return Welcome(protocol, str(info.agent_id), name, key, self._process, self._processes)

    @contextlib.asynccontextmanager
    async def _connected(self, info: LinkInfo, hello: Hello, link: AgentLink) -> AsyncIterator[_Linked | None]:
        """Registers the connection as the agent's for the length of the block. None: the agent may not connect."""
        async with self._database.write() as session:
            now, expected = self._now(), self._handover_seconds
            is_connected = await presence.connect(session, info, hello, now=now, expected=expected)
        if not is_connected:
            yield None
            return
        # An older link, here or elsewhere, ends itself when it receives the notification.
        linked = _Linked(info, link, hello.instance)
        (of_agent := self._linked.setdefault(info.agent_id.int, [])).append(linked)
        log.info("agent connected", agent=str(info.agent_id))
        try:
            await self._check(linked)  # notifications before it was registered were missed
            if not hello.engines:
                async with self._database.write() as session:
                    await holding.resume(session, info.agent_id, now=self._now())
            yield linked
        finally:
            link.close(_REPLACED)
            of_agent.remove(linked)
            if not of_agent:
                del self._linked[info.agent_id.int]
                self._reports.forget(info.agent_id)
            expected = 0 if link.said_goodbye else self._handover_seconds
            try:
                async with self._database.write() as session:
                    await presence.disconnect(session, info, now=self._now(), expected=expected)
            except Exception as error:  # noqa: BLE001 - without heartbeats, the connection is forgotten anyway
                outages.report("cannot record that an agent disconnected", error, agent=str(info.agent_id))
            log.info("agent disconnected", agent=str(info.agent_id))

    async def _send_desired(self, linked: _Linked) -> None:
        """Sends the desired state whenever it differs from what was sent last."""
        sent: list[DesiredDeployment] | None = None
        revision = 0
        while True:
            await linked.changed.wait()
            linked.changed.clear()
            load = partial(self._desired, linked.info.agent_id)
            wanted, deletions = await retry("load an agent's desired state", load, longest=_RETRY_SECONDS)
            if wanted != sent:
                revision += 1
                linked.desired, linked.to_delete = frozenset(one.deployment_id for one in wanted), frozenset(deletions)
                early, linked.early = linked.early, None
                for frame in early or ():
                    self._on_frame(linked, frame)
                linked.link.expect(len(wanted) + len(deletions))
                await linked.link.send(Desired(revision, wanted, deletions))
                sent = wanted

    async def _desired(self, agent_id: uuid.UUID) -> tuple[list[DesiredDeployment], list[str]]:
        async with self._database.read() as session:
            unconfirmed = await weight_deletions.unconfirmed(session, agent_id)
            return await presence.wanted(session, agent_id), unconfirmed[:MAX_DEPLOYMENTS]

    def _on_frame(self, linked: _Linked, frame: Report | Released) -> None:
        agent_id, deployment_id = linked.info.agent_id, frame.deployment_id
        if linked.early is not None:
            linked.early.append(frame)
        elif isinstance(frame, Report):
            if deployment_id in linked.desired:
                self._reports.report(agent_id, frame)
        elif deployment_id in linked.to_delete:
            log.info("agent deleted weights", agent=str(agent_id), deployment=deployment_id)
            self._reports.released(agent_id, deployment_id)

    async def _heartbeat(self) -> None:
        if not (linked := self._subjects()):
            return
        async with self._database.write() as session:
            known = await presence.heartbeat(session, [each.info.token for each in linked], now=self._now())
        for each in linked:
            if each.info.token not in known:
                await self._check(each)

    def _agent_changed(self, subject: str) -> Awaitable[object] | None:
        """An agent changed: ends its connection here if it may no longer have one."""
        return asyncio.gather(*map(self._check, linked)) if (linked := self._subjects(subject)) else None

    async def _check(self, linked: _Linked) -> None:
        """Ends the connection if the agent may no longer have it; retries until the database answers."""
        why = await retry("check a connected agent", partial(self._close_reason_for, linked), longest=_RETRY_SECONDS)
        if why is not None:
            linked.link.close(why)

    async def _close_reason_for(self, linked: _Linked) -> ClosedError | None:
        """Why the agent may no longer have this connection, or None."""
        if linked.link.is_over:
            return None
        async with self._database.read() as session:
            agent = await queries.agent(session, linked.info.agent_id)
            links = await queries.links_of(session, [linked.info.agent_id])
        if agent is None or agent.state == AgentState.REMOVED:
            return _REMOVED
        if agent.state == AgentState.SUSPENDED:
            return _SUSPENDED
        of_agent = links[linked.info.agent_id]
        if any(each.token == linked.info.token for each in of_agent):
            return None
        is_same = bool(linked.instance) and agent.instance == linked.instance
        return _REPLACED if of_agent and not is_same else _UNKNOWN

    async def _look(self) -> None:
        """Looks up which processes accept links, and tells the agents if that changed."""
        async with self._database.read() as session:
            found = await propagation.running(session, MAX_PROCESSES)
        if self._is_leaving:
            found = [name for name in found if name != self._process]
        if found != self._processes:
            self._processes = found
            for linked in self._subjects():
                linked.link.post(Ping(found))

    def _desired_changed(self, subject: str) -> None:
        for linked in self._subjects(subject):
            linked.changed.set()

    def _subjects(self, subject: str = "*") -> list[_Linked]:
        found = self._linked.values() if subject == "*" else [self._linked.get(uuid.UUID(subject).int, [])]
        return [each for of_agent in found for each in of_agent]

    def _now(self) -> int:
        return int(self._clock())


async def _hello(receive: Receive) -> Hello:
    """The agent's first frame. Raises ClosedError."""
    message = await receive()
    if message.get("code") in BROKEN_CODES:
        raise ClosedError(CloseCode.PROTOCOL, "The agent violated the WebSocket protocol.")
    if message["type"] != "websocket.receive":
        raise ClosedError(CloseCode.GOING_AWAY, "The agent closed the link.")
    hello = decoded_hello(message.get("bytes") or b"")
    if not isinstance(hello, Hello):
        raise ClosedError(CloseCode.PROTOCOL, "The first frame has to be a Hello.")
    return hello


def _result(serving: asyncio.Task[ClosedError]) -> ClosedError:
    """Why the connection served by this task ended."""
    if serving.cancelled():
        return _LEAVING
    if (error := serving.exception()) is None:
        return serving.result()
    outages.report("cannot connect an agent", error)
    return ClosedError(CloseCode.TRY_AGAIN, "The server cannot accept this connection now: reconnect.")


def _no_common_protocol(hello: Hello) -> ClosedError | None:
    oldest, newest = hello.protocol, max(hello.protocol, hello.newest_protocol)
    if newest >= OLDEST_PROTOCOL and oldest <= PROTOCOL:
        return None
    theirs, older = (oldest, "server") if oldest > PROTOCOL else (newest, "agent")
    ours = f"this server {OLDEST_PROTOCOL} to {PROTOCOL}"
    return ClosedError(
        CloseCode.PROTOCOL, f"The agent speaks version {theirs} of the link protocol, {ours}: update the {older}."
    )


async def _try_again(scope: Scope, send: Send, status: int) -> None:
    """Answers a handshake with the status, or with close code 1013 if the HTTP server cannot send a status."""
    if "websocket.http.response" in scope.get("extensions", {}):
        headers = [(b"retry-after", b"%d" % _RETRY_SECONDS)]
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": int(CloseCode.TRY_AGAIN), "reason": "Try again in a moment."})
