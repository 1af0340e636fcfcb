"""The inference path: authenticate, admit, choose, relay, meter. On snapshots, without FastAPI and database.

Routes: `/{project_id}/{endpoint_slug}/v1/` followed by `chat/completions`, `completions`, `embeddings`, `models` or
`models/{name}`. Each request is a `Call`, which our own HTTP server drives directly (`handler`), and any other one
over ASGI (`asgi`).
"""

import asyncio
import hmac
import random
import re
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from modelshare.server.accounts.key_auth import KEYS_TOPIC, KeyAuthenticator, KeyUse
from modelshare.server.accounts.sessions import PEOPLE_TOPIC, SessionAuthenticator, SessionUse
from modelshare.server.background import Loop, stop_all, wait
from modelshare.server.db import Database
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.policy import PrefixHits, WaitingRequests
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.topics import READY_TOPIC
from modelshare.server.http import Caller, session_token
from modelshare.server.ids import secret_hash
from modelshare.server.router import refusals
from modelshare.server.router.admission import Admission
from modelshare.server.router.call import Call
from modelshare.server.router.clients import AsgiClient, Client, Headers
from modelshare.server.router.forward import Forwarder
from modelshare.server.router.holding import HolderConnections
from modelshare.server.router.in_flight import InFlight
from modelshare.server.router.ledger import FREED_TOPIC
from modelshare.server.router.metering import Meter
from modelshare.server.router.metrics import RouterMetrics
from modelshare.server.router.request_head import RequestHead, parse_path
from modelshare.server.router.request_queue import RequestQueue
from modelshare.server.router.snapshots import Snapshot, Snapshots
from modelshare.server.router.stated_limits import endpoint_of
from modelshare.server.router.target_selection import TargetSelector
from modelshare.server.settings import Settings
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.wire.base import SLUG_PATTERN

_SLUG: Final = re.compile(SLUG_PATTERN)
_SWEEP_SECONDS: Final = 0.25
"""How late a deadline may be noticed: one sweep over all requests costs less than a timer for each."""
_POLL_SECONDS: Final = 0.25
"""How often a waiting request looks for its agent without being told."""
_TENANTS: Final = 10_000


class Router:
    def __init__(self, parts: "RouterParts") -> None:
        settings = parts.settings
        self.keys = parts.keys
        self.clock = parts.clock
        self.now = time.monotonic
        """Seconds, for deadlines."""
        self.admission = parts.admission
        self.queue = RequestQueue(parts.waiting, lambda step: asyncio.get_running_loop().call_soon(step))
        parts.database.subscribe(FREED_TOPIC, self._freed_elsewhere)
        self.metrics = RouterMetrics(parts.registry, parts.hits, lambda: len(self._calls), lambda: self.queue.count)
        self.meter = Meter(parts.database, parts.clock)
        self.snapshots = Snapshots(parts.database, parts.tiers, time.monotonic, grace=settings.database_grace_seconds)
        self.max_body_bytes = settings.inference_max_body_bytes
        self._settings = settings
        self._trusted_proxies = frozenset(settings.trusted_proxies)
        self._database = parts.database
        self._sessions = parts.sessions
        self.handover_seconds = settings.handover_seconds
        self._agents_changed = asyncio.Event()
        parts.database.subscribe(READY_TOPIC, self._wake_waiting)  # after the snapshots, which drop what changed
        secret = settings.signing_secret()
        self._tenant_secret = hmac.digest(secret, b"modelshare tenant 1", "sha256")
        self._tenants: dict[str, str] = {}
        self.forwarder = Forwarder(parts.links, secret, parts.clock)
        self.selector = TargetSelector(parts.links, self.forwarder, parts.hits)
        self.holders = HolderConnections(parts.database, parts.links, self.selector)
        self._calls: set[Call] = set()
        self._sweeping = Loop(
            "end requests that take too long", self._sweep, every=_SWEEP_SECONDS, is_idle=lambda: not self._calls
        )
        self._in_flight: list[InFlight[Call, Any]] = [
            InFlight(self._calls, lambda call: call.endpoint_id, self._recalled, refusals.recalled)
        ]
        if settings.keys_cut_streams:
            keys = InFlight(self._calls, _key_of, parts.keys.revoked_among, refusals.key_over)
            sessions = InFlight(self._calls, _session_of, parts.sessions.revoked_among, refusals.session_over)
            parts.database.subscribe(KEYS_TOPIC, lambda _: keys.check())
            parts.database.subscribe(PEOPLE_TOPIC, lambda _: sessions.check())
            self._in_flight += [keys, sessions]
        self._random = random.Random(random.SystemRandom().getrandbits(128))  # noqa: S311 - request IDs are no secrets

    async def start(self) -> None:
        await self.admission.start()
        await self.meter.start()
        for loop in self._loops():
            await loop.start()

    async def stop(self) -> None:
        """Writes pending usage. Call it when no more requests arrive."""
        await stop_all(self._loops())
        await self.admission.stop()
        await self.meter.stop()
        await self.snapshots.stop()
        await self.forwarder.stop()

    def _loops(self) -> list[Loop]:
        return [*(each.loop for each in self._in_flight), self._sweeping]

    @staticmethod
    def matches_path(path: str) -> bool:
        """Whether the path is one of the router's."""
        return parse_path(path) is not None

    def handler(self, scope: Scope, client: Client, extra: Headers) -> Call | None:
        """The handler of a request; None if it does not ask for inference. `extra`: headers of every answer."""
        path = parse_path(scope["path"]) if scope["method"] == "POST" else None
        return None if path is None else self._call(scope, path, client, extra)

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request over ASGI."""
        path = parse_path(scope["path"])
        assert path is not None  # noqa: S101 - see `matches_path`
        client = AsgiClient(scope, receive, send)
        await client.run(self._call(scope, path, client))

    def _call(self, scope: Scope, path: tuple[str, str, str], client: Client, extra: Headers = ()) -> Call:
        call = Call(self, client, RequestHead(scope, path, self._trusted_proxies), extra)
        if not self._calls:
            for loop in self._loops():
                loop.resume()
        self._calls.add(call)
        return call

    # Used by calls.

    def new_request_id(self) -> bytes:
        return b"%032x" % self._random.getrandbits(128)

    def over(self, call: Call, status: int, seconds: float) -> None:
        """The request has ended."""
        self._calls.discard(call)
        self.metrics.observe(call.head.metric, status, seconds)

    def tenant(self, project_id: str) -> str:
        """The project's name for agents: the same from every process of this platform, and not reversible."""
        name = self._tenants.get(project_id)
        if name is None:
            if len(self._tenants) >= _TENANTS:
                self._tenants.clear()
            name = hmac.digest(self._tenant_secret, project_id.encode(), "sha256").hex()
            self._tenants[project_id] = name
        return name

    async def caller(self, head: RequestHead) -> tuple[Caller | None, KeyUse | SessionUse]:
        """Who calls, by session or key; None for an unknown key."""
        token = session_token(head.http, self._settings) if head.has_cookie else None
        if token is not None:
            person = await self._sessions.authenticate(token, head.project_id)
            return person, SessionUse(secret_hash(token), head.project_id)
        use = head.key_use()
        return await self.keys.authenticate_hash(use.value_hash, use.address), use

    async def find_endpoint(self, head: RequestHead, *, is_fresh: bool = False) -> Snapshot | None:
        """The endpoint. `is_fresh`: as it is in the database now."""
        if not _SLUG.fullmatch(head.slug):
            return None
        since = {"since": time.monotonic()} if is_fresh else {}
        return await self.snapshots.get(head.project_id, head.slug, **since)

    async def await_agent(self, head: RequestHead, until: float) -> Snapshot | None:
        """The endpoint after the next change of agents, and once it has one again, if one is expected. Waits until a
        time of `now` at most."""
        while True:
            await wait(self._agents_changed, min(_POLL_SECONDS, max(0.0, until - self.now())))
            found = await self.find_endpoint(head)
            if found is None or not found.awaits_agent(self.clock()) or self.now() >= until:
                return found

    def _wake_waiting(self, _: str) -> None:
        self._agents_changed.set()
        self._agents_changed = asyncio.Event()

    def _freed_elsewhere(self, slots: str) -> None:
        if slots != "*":  # then the sweep finds what was freed
            self.admission.freed(slots)
            self.queue.freed(endpoint_of(slots))

    async def _sweep(self) -> None:
        self.queue.serve_all()
        now = self.now()
        overdue = [each for each in self._calls if each.deadline <= now]
        for call in sorted(overdue, key=lambda each: each.deadline, reverse=True):  # each is told its place of before
            call.too_slow()

    async def _recalled(self, endpoint_ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
        """Endpoints whose recall is due: their requests end at the deadline."""
        async with self._database.read() as session:
            return await endpoints.recalled(session, endpoint_ids, now=int(self.clock()))


def _key_of(call: Call) -> KeyUse | None:
    return call.use if isinstance(call.use, KeyUse) else None


def _session_of(call: Call) -> SessionUse | None:
    return call.use if isinstance(call.use, SessionUse) else None


@dataclass(frozen=True, slots=True)
class RouterParts:
    """The router's dependencies."""

    settings: Settings
    database: Database
    tiers: TierRegistry
    links: AgentLinks
    keys: KeyAuthenticator
    sessions: SessionAuthenticator
    admission: Admission
    registry: CollectorRegistry
    hits: PrefixHits
    waiting: WaitingRequests
    clock: Callable[[], float]
    """Unix seconds."""
