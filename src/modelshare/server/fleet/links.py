"""The links that this process holds: `GET /v1/agent/link`, a WebSocket per agent.

A credential is looked at before the handshake is answered. An agent has one link: a newer one ends the older, in
whatever process that is. What an agent is to hold goes out when it changes; what it reports is written in batches.
"""

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from modelshare.server import outages
from modelshare.server.db import Database
from modelshare.server.fleet import presence, queries, service, weight_deletions
from modelshare.server.fleet.link import AgentLink, ClosedError, StreamBrokenError
from modelshare.server.fleet.presence import LinkName
from modelshare.server.fleet.reports import Reports
from modelshare.server.fleet.topics import AGENTS_TOPIC, DESIRED_TOPIC
from modelshare.server.fleet.verdicts import Verdicts
from modelshare.server.http import bearer
from modelshare.wire.agents import AgentState
from modelshare.wire.link import (
    MAX_DEPLOYMENTS,
    MAX_NAME,
    PROTOCOL,
    CloseCode,
    Desired,
    DesiredDeployment,
    Hello,
    Released,
    Report,
    Welcome,
    close_reason,
)
from modelshare.wire.text import plain

log = structlog.get_logger()

_HELLO_SECONDS = 10.0
_GOODBYE_SECONDS = 1.0
_STOP_SECONDS = 2.0
"""Links may take to end when the process does; the database they tell of it may be away."""
_RETRY_SECONDS = 1.0
_EARLY = 1000
"""Frames; of more only the last are heard. An agent says all of it again once it is told what to hold."""
_VOUCH_SECONDS = presence.STALE_SECONDS / 3
_SUSPENDED = ClosedError(CloseCode.SUSPENDED, "This agent is suspended. Its owner can resume it.")
_REMOVED = ClosedError(CloseCode.REMOVED, "This agent was removed. Enrol it again with a join key to use it.")
_REPLACED = ClosedError(CloseCode.REPLACED, "A newer connection of this agent took over.")


class _Linked:
    """An agent's link with what this process keeps beside it."""

    def __init__(self, name: LinkName, link: AgentLink) -> None:
        self.name = name
        self.link = link
        self.changed = asyncio.Event()
        """What it is to hold may have changed."""
        self.changed.set()
        self.held: frozenset[str] = frozenset()
        """Ids of what it was told to hold: what it says of others says nothing."""
        self.let_go: frozenset[str] = frozenset()
        """Ids of what it was told to let go of, and has not said to be gone."""
        self.early: deque[Report | Released] | None = deque(maxlen=_EARLY)
        """What it says before it was told anything, of which it is not known yet whether it counts; None afterwards."""


class AgentLinks:
    """All links of one process."""

    def __init__(self, database: Database, clock: Callable[[], float], *, address: str, verdicts: Verdicts) -> None:
        """`address`: this process's URL, for the others; nobody else ever has the same."""
        self.address = address
        self._database = database
        self._clock = clock
        self._verdicts = verdicts
        self._linked: dict[uuid.UUID, _Linked] = {}
        self._reports = Reports(database, clock)
        self._vouching: asyncio.Task[None] | None = None
        self._sessions: set[asyncio.Task[Any]] = set()
        database.subscribe(AGENTS_TOPIC, self._agent_changed)
        database.subscribe(DESIRED_TOPIC, self._desired_changed)

    async def start(self) -> None:
        async with self._database.write() as session:
            await presence.forget_links(session, self.address, now=self._now())
        await self._reports.start()
        self._vouching = asyncio.create_task(self._vouch())

    async def stop(self) -> None:
        """Ends all links; the agents come back to whoever is there. Takes seconds, whatever the database does."""
        for linked in self._linked.values():
            linked.link.close(ClosedError(CloseCode.GOING_AWAY, "The server is restarting."))
        await _end(self._sessions, patience=_STOP_SECONDS)
        if self._vouching is not None:
            await _end({self._vouching})
        await self._reports.stop()

    def get(self, agent_id: uuid.UUID) -> AgentLink | None:
        """The agent's link, when this process holds it."""
        linked = self._linked.get(agent_id)
        return linked.link if linked else None

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The WebSocket."""
        await receive()  # websocket.connect
        token = bearer(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))
        try:
            async with self._database.read() as session:
                agent = await service.authenticate(session, token)
        except Exception as error:  # noqa: BLE001 - whatever keeps us from looking says nothing of the agent
            outages.report("cannot look up an agent that is connecting", error)
            await _try_again(scope, send)
            return
        if agent is None:
            await send({"type": "websocket.close"})  # before an accept: the handshake is answered with 403
            return
        await send({"type": "websocket.accept"})
        link = AgentLink(receive, send, asyncio.get_running_loop().time)
        if agent.state == AgentState.SUSPENDED:
            why = _SUSPENDED
        else:
            task = asyncio.ensure_future(self._serve(LinkName(agent.id, uuid.uuid4()), agent.name, link))
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)
            await asyncio.wait([task])
            why = _result(task)
        # The socket may be gone: servers differ in what they raise then, and one never answers.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await send({"type": "websocket.close", "code": int(why.code), "reason": close_reason(str(why))})

    async def _serve(self, name: LinkName, agent_name: str, link: AgentLink) -> ClosedError:
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = await link.receive()
        except TimeoutError:
            return ClosedError(CloseCode.SILENT, "No Hello was received.")
        except ClosedError as error:
            return error
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            return ClosedError(
                CloseCode.PROTOCOL, f"This server uses version {PROTOCOL} of the link protocol: update modelshare."
            )
        async with self._connected(name, hello, link) as linked:
            if linked is None:
                return _SUSPENDED
            try:
                key = self._verdicts.key_of(str(name.agent_id))
                await link.send(Welcome(PROTOCOL, str(name.agent_id), plain(agent_name, MAX_NAME), key))
            except StreamBrokenError as error:
                return ClosedError(CloseCode.GOING_AWAY, str(error))
            return await link.run(
                lambda report: self._report(linked, report),
                lambda released: self._released(linked, released),
                self._send_desired(linked),
            )

    @contextlib.asynccontextmanager
    async def _connected(self, name: LinkName, hello: Hello, link: AgentLink) -> AsyncIterator[_Linked | None]:
        """The agent's link is this one for as long; the block ends when the link does."""
        async with self._database.write() as session:
            if not await presence.connect(session, name, hello, self.address, now=self._now()):
                yield None
                return
        # An older link, here or elsewhere, hears of it by the notification and ends itself.
        linked = self._linked[name.agent_id] = _Linked(name, link)
        log.info("agent connected", agent=str(name.agent_id))
        try:
            await self._check(linked)  # what changed a moment ago was heard before the link stood here
            yield linked
        finally:
            link.close(_REPLACED)
            if self._linked.get(name.agent_id) is linked:
                del self._linked[name.agent_id]
                self._reports.forget(name.agent_id)
            try:
                async with self._database.write() as session:
                    await presence.disconnect(session, name, now=self._now())
            except Exception as error:  # noqa: BLE001 - when nobody vouches for the link, it is forgotten as well
                outages.report("cannot record that an agent disconnected", error, agent=str(name.agent_id))
            log.info("agent disconnected", agent=str(name.agent_id))

    async def _send_desired(self, linked: _Linked) -> None:
        """Sends what the agent is to hold, whenever that is something else than it was."""
        sent: list[DesiredDeployment] | None = None
        revision = 0
        while True:
            await linked.changed.wait()
            linked.changed.clear()
            try:
                async with self._database.read() as session:
                    wanted = await presence.wanted(session, linked.name.agent_id)
                    unconfirmed = await weight_deletions.unconfirmed(session, linked.name.agent_id)
            except Exception as error:  # noqa: BLE001 - the link outlives a database that is away for a while
                outages.report("cannot load the desired state of an agent", error, agent=str(linked.name.agent_id))
                linked.changed.set()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if wanted != sent:
                revision += 1
                told = unconfirmed[:MAX_DEPLOYMENTS]
                linked.held, linked.let_go = frozenset(one.deployment_id for one in wanted), frozenset(told)
                self._hear_early(linked)
                linked.link.expect(len(wanted) + len(told))
                await linked.link.send(Desired(revision, wanted, told))
                sent = wanted

    def _hear_early(self, linked: _Linked) -> None:
        early, linked.early = linked.early, None
        for frame in early or ():
            if isinstance(frame, Report):
                self._report(linked, frame)
            else:
                self._released(linked, frame)

    def _report(self, linked: _Linked, report: Report) -> None:
        if linked.early is not None:
            linked.early.append(report)
        elif report.deployment_id in linked.held:
            self._reports.report(linked.name.agent_id, report)

    def _released(self, linked: _Linked, released: Released) -> None:
        if linked.early is not None:
            linked.early.append(released)
        elif released.deployment_id in linked.let_go:
            log.info("agent deleted weights", agent=str(linked.name.agent_id), deployment=released.deployment_id)
            self._reports.released(linked.name.agent_id, released.deployment_id)

    async def _vouch(self) -> None:
        pause = _VOUCH_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = _VOUCH_SECONDS
            linked = list(self._linked.values())
            try:
                async with self._database.write() as session:
                    known = await presence.heartbeat(session, [each.name for each in linked], now=self._now())
            except Exception as error:  # noqa: BLE001 - as above: the next round says it again
                outages.report("cannot send heartbeats for connected agents", error)
                pause = _RETRY_SECONDS  # in time, before anybody takes them for dead
                continue
            for each in linked:
                if each.name.token not in known:
                    await self._check(each)

    def _agent_changed(self, subject: str) -> Awaitable[object] | None:
        """An agent changed: end its link here if it is not to have one any more."""
        linked = self._subjects(subject)
        return asyncio.gather(*map(self._check, linked)) if linked else None

    async def _check(self, linked: _Linked) -> None:
        """Ends the link if the agent is not to have it any more; asks until the database answers."""
        while not linked.link.is_over:
            try:
                why = await self._over(linked.name)
            except Exception as error:  # noqa: BLE001 - as above: the database may be away for a while
                outages.report("cannot look up a connected agent", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if why is not None:
                linked.link.close(why)
            return

    async def _over(self, name: LinkName) -> ClosedError | None:
        """Why the agent is not to have this link any more, if so."""
        async with self._database.read() as session:
            agent = await queries.agent(session, name.agent_id)
        if agent is None or agent.state == AgentState.REMOVED:
            return _REMOVED
        if agent.state == AgentState.SUSPENDED:
            return _SUSPENDED
        if agent.link_token is None:
            return ClosedError(CloseCode.GOING_AWAY, "The server considered this connection dead: reconnect.")
        return None if agent.link_token == name.token else _REPLACED

    def _desired_changed(self, subject: str) -> None:
        for linked in self._subjects(subject):
            linked.changed.set()

    def _subjects(self, subject: str) -> list[_Linked]:
        if subject == "*":
            return list(self._linked.values())
        linked = self._linked.get(uuid.UUID(subject))
        return [linked] if linked else []

    def _now(self) -> int:
        return int(self._clock())


def _result(serving: asyncio.Task[ClosedError]) -> ClosedError:
    """Why the link that it served ended."""
    if serving.cancelled():
        return ClosedError(CloseCode.GOING_AWAY, "The server is restarting.")
    if (error := serving.exception()) is None:
        return serving.result()
    outages.report("cannot connect an agent", error)
    return ClosedError(CloseCode.TRY_AGAIN, "The server cannot accept this connection now: reconnect.")


async def _try_again(scope: Scope, send: Send) -> None:
    """Answers a handshake with 503, or with what comes next to it where the HTTP server lets us say no status."""
    if "websocket.http.response" in scope.get("extensions", {}):
        headers = [(b"retry-after", b"%d" % _RETRY_SECONDS)]
        await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})
        return
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": int(CloseCode.TRY_AGAIN), "reason": "Try again in a moment."})


async def _end(tasks: Collection[asyncio.Task[Any]], patience: float = 0.0) -> None:
    """Ends what does not end by itself; what does not even then, in a thread that waits for the database, is left."""
    if tasks and patience:
        await asyncio.wait(tasks, timeout=patience)
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_GOODBYE_SECONDS)
