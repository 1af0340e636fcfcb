"""The links that this process holds: `GET /v1/agent/link`, a WebSocket per agent.

A credential is looked at before the handshake is answered. An agent has one link: a newer one ends the older, in
whatever process that is. What an agent is to hold goes out when it changes; what it reports is written in batches.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from starlette.types import Receive, Scope, Send

from modelshare.server import outages
from modelshare.server.db import Database
from modelshare.server.fleet import presence, queries, releases, service
from modelshare.server.fleet.link import ClosedError, Link, StreamBrokenError
from modelshare.server.fleet.presence import LinkName
from modelshare.server.fleet.topics import AGENTS_TOPIC, DESIRED_TOPIC
from modelshare.server.http import bearer
from modelshare.server.ids import parse_uuid
from modelshare.wire.agents import AgentState, Phase
from modelshare.wire.link import PROTOCOL, CloseCode, Desired, Hello, Released, Report, Wanted, Welcome

log = structlog.get_logger()

_HELLO_SECONDS = 10.0
_GOODBYE_SECONDS = 1.0
_REPORTS_SECONDS = 0.5
"""The longest that reports gather before they are written."""
_RETRY_SECONDS = 1.0
_VOUCH_SECONDS = presence.STALE_SECONDS / 3
_SUSPENDED = ClosedError(CloseCode.SUSPENDED, "This agent is suspended. Its owner can resume it.")
_REMOVED = ClosedError(CloseCode.REMOVED, "This agent was removed. Enroll it anew with a join key to use it again.")
_REPLACED = ClosedError(CloseCode.REPLACED, "A newer link of this agent took over.")


class _Linked:
    """An agent's link with what this process keeps beside it."""

    def __init__(self, name: LinkName, link: Link) -> None:
        self.name = name
        self.link = link
        self.changed = asyncio.Event()
        """What it is to hold may have changed."""
        self.changed.set()


class Links:
    """All links of one process."""

    def __init__(self, database: Database, clock: Callable[[], float], *, address: str) -> None:
        """`address`: this process's URL, for the others; nobody else ever has the same."""
        self.address = address
        self._database = database
        self._clock = clock
        self._linked: dict[uuid.UUID, _Linked] = {}
        self._reports: dict[tuple[uuid.UUID, str], Report] = {}
        self._released_ids: set[tuple[uuid.UUID, uuid.UUID]] = set()
        """(agent, deployment) whose weights are deleted, until that is written."""
        self._reported = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sessions: set[asyncio.Task[Any]] = set()
        database.subscribe(AGENTS_TOPIC, self._agent_changed)
        database.subscribe(DESIRED_TOPIC, self._desired_changed)

    async def start(self) -> None:
        async with self._database.write() as session:
            await presence.forget_links(session, self.address, now=self._now())
        self._tasks = [asyncio.create_task(self._write_reports()), asyncio.create_task(self._vouch())]

    async def stop(self) -> None:
        """Ends all links; the agents come back to whoever is there."""
        for linked in self._linked.values():
            linked.link.close(ClosedError(CloseCode.GOING_AWAY, "The server restarts."))
        await asyncio.gather(*self._sessions, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def get(self, agent_id: uuid.UUID) -> Link | None:
        """The agent's link, when this process holds it."""
        linked = self._linked.get(agent_id)
        return linked.link if linked else None

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The WebSocket."""
        await receive()  # websocket.connect
        token = bearer(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))
        async with self._database.read() as session:
            agent = await service.authenticate(session, token)
        if agent is None:
            await send({"type": "websocket.close"})  # before an accept: the handshake is answered with 403
            return
        await send({"type": "websocket.accept"})
        link = Link(receive, send, asyncio.get_running_loop().time)
        if agent.state == AgentState.SUSPENDED:
            why = _SUSPENDED
        else:
            task = asyncio.ensure_future(self._serve(LinkName(agent.id, uuid.uuid4()), agent.name, link))
            self._sessions.add(task)
            task.add_done_callback(self._sessions.discard)
            why = await task
        # The socket may be gone: servers differ in what they raise then, and one never answers.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await send({"type": "websocket.close", "code": int(why.code), "reason": str(why)[:120]})

    async def _serve(self, name: LinkName, agent_name: str, link: Link) -> ClosedError:
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                hello = await link.receive()
        except TimeoutError:
            return ClosedError(CloseCode.SILENT, "No Hello came.")
        except ClosedError as error:
            return error
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            return ClosedError(CloseCode.PROTOCOL, f"This server speaks version {PROTOCOL}: update modelshare.")
        async with self._connected(name, hello, link) as linked:
            if linked is None:
                return _SUSPENDED
            try:
                await link.send(Welcome(PROTOCOL, str(name.agent_id), agent_name))
            except StreamBrokenError as error:
                return ClosedError(CloseCode.GOING_AWAY, str(error))
            return await link.run(
                lambda report: self._report(name, report),
                lambda released: self._released(name, released),
                self._send_desired(linked),
            )

    @contextlib.asynccontextmanager
    async def _connected(self, name: LinkName, hello: Hello, link: Link) -> AsyncIterator[_Linked | None]:
        """The agent's link is this one for as long; the block ends when the link does."""
        async with self._database.write() as session:
            if not await presence.connect(session, name, hello, self.address, now=self._now()):
                yield None
                return
        # An older link, here or elsewhere, hears of it by the notification and ends itself.
        linked = self._linked[name.agent_id] = _Linked(name, link)
        log.info("agent linked", agent=str(name.agent_id))
        try:
            await self._check(linked)  # what changed a moment ago was heard before the link stood here
            yield linked
        finally:
            link.close(_REPLACED)
            if self._linked.get(name.agent_id) is linked:
                del self._linked[name.agent_id]
            async with self._database.write() as session:
                await presence.disconnect(session, name, now=self._now())
            log.info("agent link ended", agent=str(name.agent_id))

    async def _send_desired(self, linked: _Linked) -> None:
        """Sends what the agent is to hold, whenever that is something else than it was."""
        sent: list[Wanted] | None = None
        revision = 0
        while True:
            await linked.changed.wait()
            linked.changed.clear()
            async with self._database.read() as session:
                wanted = await presence.wanted(session, linked.name.agent_id)
                unconfirmed = await releases.unconfirmed(session, linked.name.agent_id)
            if wanted != sent:
                revision += 1
                await linked.link.send(Desired(revision, wanted, unconfirmed))
                sent = wanted

    def _report(self, name: LinkName, report: Report) -> None:
        if report.phase not in set(Phase):
            raise ClosedError(CloseCode.PROTOCOL, f"`{report.phase}` is no phase of a deployment.")
        key = (name.agent_id, report.deployment_id)
        self._reports[key] = report
        if report.phase not in {Phase.PULLING, Phase.VERIFYING, Phase.CONVERTING}:
            self._reported.set()

    def _released(self, name: LinkName, released: Released) -> None:
        deployment_id = parse_uuid(released.deployment_id)
        if deployment_id is None:
            raise ClosedError(CloseCode.PROTOCOL, f"`{released.deployment_id}` is no deployment's id.")
        log.info("agent deleted weights", agent=str(name.agent_id), deployment=released.deployment_id)
        self._released_ids.add((name.agent_id, deployment_id))
        self._reported.set()

    async def _write_reports(self) -> None:
        while True:
            # Not asyncio.wait_for: until Python 3.12 it may swallow a cancellation, and this would never stop.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPORTS_SECONDS):
                    await self._reported.wait()
            self._reported.clear()
            if not self._reports and not self._released_ids:
                continue
            reports, self._reports = self._reports, {}
            released, self._released_ids = self._released_ids, set()
            try:
                async with self._database.write() as session:
                    await presence.apply(session, reports)
                    await releases.confirm(session, released, now=self._now())
            except Exception as error:  # noqa: BLE001 - the database may be away for a while; newer reports win
                outages.report("cannot write reports", error)
                self._reports = {**reports, **self._reports}
                self._released_ids |= released
                await asyncio.sleep(_REPORTS_SECONDS)

    async def _vouch(self) -> None:
        pause = _VOUCH_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = _VOUCH_SECONDS
            linked = list(self._linked.values())
            try:
                async with self._database.write() as session:
                    known = await presence.vouch(session, [each.name for each in linked], now=self._now())
            except Exception as error:  # noqa: BLE001 - as above: the next round says it again
                outages.report("cannot vouch for links", error)
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
                outages.report("cannot look at a linked agent", error)
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
            return ClosedError(CloseCode.GOING_AWAY, "The server took this link for dead: link again.")
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
