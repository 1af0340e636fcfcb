"""All wiring: `create_app(settings)` builds the ASGI application.

It routes requests before any framework: downloads by a signed link, agents' connections, inference, and everything else
(FastAPI). `/{project_id}/v1/...` is `/v1/...` with the project named.
"""

import functools
import re
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from modelshare.server import installation, jobs, migrations, model_paths, outages
from modelshare.server.accounts import service as accounts
from modelshare.server.accounts import sessions as accounts_sessions
from modelshare.server.accounts.key_auth import KeyAuthenticator
from modelshare.server.accounts.sessions import SessionAuthenticator
from modelshare.server.accounts.sign_in import SignIn
from modelshare.server.api import BELOW_MODELS, api
from modelshare.server.audit.propagation.service import PropagationTracker
from modelshare.server.audit.webhooks import jobs as webhook_jobs
from modelshare.server.audit.webhooks import service as webhooks
from modelshare.server.audit.webhooks.dispatch import Dispatcher
from modelshare.server.audit.webhooks.sending import Sender
from modelshare.server.background import Chore, Chores, Ending, within
from modelshare.server.clock import DatabaseClock
from modelshare.server.cors import Cors
from modelshare.server.db import Database
from modelshare.server.endpoints import jobs as endpoints_jobs
from modelshare.server.endpoints import recalls
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.policy import EndpointPolicy
from modelshare.server.fleet import service as fleet
from modelshare.server.fleet.jobs import Reconciler
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.verdicts import Verdicts
from modelshare.server.fleet.weight_deletions import service as weight_deletions
from modelshare.server.front.exchange import Exchange, Handler
from modelshare.server.health import Readiness
from modelshare.server.http import Caller
from modelshare.server.hub.hugging_face import app as hugging_face
from modelshare.server.hub.oci import service as oci
from modelshare.server.jobs import Worker
from modelshare.server.middleware import BodyLimit, Head, RequestId, never_sniffed
from modelshare.server.ratelimit import TokenBuckets
from modelshare.server.registry.imports import jobs as imports_jobs
from modelshare.server.registry.moves import jobs as moves_jobs
from modelshare.server.registry.processing import jobs as processing_jobs
from modelshare.server.registry.storages.relay import RelayedFiles
from modelshare.server.registry.storages.stores import SEPARATOR, ProjectStores
from modelshare.server.registry.uploads import expiry
from modelshare.server.registry.uploads import routes as uploads_routes
from modelshare.server.retention.sweep import Retention
from modelshare.server.router.admission import Admission
from modelshare.server.router.ledger import Ledger, forget_unused
from modelshare.server.router.service import Router, RouterParts
from modelshare.server.settings import Settings
from modelshare.server.sharing import search, tiers
from modelshare.server.sharing import service as sharing
from modelshare.server.storage import signed_urls
from modelshare.server.storage.files import BlobFiles
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.stores import open_store
from modelshare.server.web.live import Live
from modelshare.server.web.page_auth import PagesPlatform
from modelshare.wire.keys import Project
from modelshare.wire.link import LINK_PATH

CHORES_SECONDS = 60
"""How often expired uploads are ended, the use of keys is stored, and so on."""
_LEAVE_SECONDS: Final = 3.0
"""How long it may take to tell other processes and agents: the database may be unavailable."""
STOP_SECONDS = 20.0
"""How long all background services together may take to stop."""
MAX_BODY: Final = 16 << 20
"""Maximum bytes of a request's body. Opening an upload of 10,000 files, the maximum, takes 12 MB."""
_IMPORTS: Final = 2
"""Imports that a process runs at once."""
_PROJECT_PATH = re.compile(r"/(proj_[^/]+)(/v1(?:/.*)?)")


class BackgroundService(Protocol):
    """A service that runs in the background."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Application:
    """The platform as one ASGI application."""

    def __init__(self, settings: Settings, clock: Callable[[], float] | None = None) -> None:
        """`clock`: for tests, see DatabaseClock."""
        settings = settings.with_secret()
        self.settings = settings
        self.database = Database(settings.database)
        migrations.SchemaGuard(self.database)
        self.clock = DatabaseClock(self.database, clock)
        self._confirmer = PropagationTracker(self.database, address=settings.address)
        self.platform = _platform(settings, self.database, self.clock, self._confirmer)
        unlimited: frozenset[Callable[..., Any]] = frozenset({uploads_routes.put_part, uploads_routes.put_files})
        self._api = RequestId(Head(BodyLimit(api(), MAX_BODY, unlimited=unlimited)))
        store = self.platform.store
        self._files = RequestId(BlobFiles(store)) if isinstance(store, FolderStore) else None
        self._relayed = RequestId(RelayedFiles(self.platform.stores, settings.signing_secret(), self.clock))
        self._hugging_face = RequestId(hugging_face.HuggingFace(self.platform))
        self.links = AgentLinks(
            self.database,
            self.clock,
            address=settings.address,
            verdicts=self.platform.verdicts,
            process=self._confirmer.name,
            handover_seconds=settings.handover_seconds,
        )
        self._router = Router(
            RouterParts(
                settings=settings,
                database=self.database,
                tiers=self.platform.tiers,
                links=self.links,
                keys=self.platform.keys,
                sessions=self.platform.sessions,
                admission=self.platform.admission,
                registry=self.platform.metrics,
                hits=self.platform.endpoint_policy.prefix_hits,
                waiting=self.platform.endpoint_policy.waiting,
                clock=self.clock,
            )
        )
        self.platform.stores.holders = self._router.holders
        self.chores = Chores(_chores(self.platform), every=CHORES_SECONDS)
        self._inference = Head(self._router.asgi)
        self._cors = Cors(self._enter, settings.cors_origins) if settings.cors_origins else None
        self._entry: ASGIApp = self._cors or self._enter
        self._running = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self._entry(scope, receive, send)

    def handler(self, exchange: Exchange) -> Handler | None:
        """The handler of an inference request, which our own HTTP server drives without ASGI; None for others."""
        exchange.scope["platform"] = self.platform
        cors = self._cors.of_answers(exchange.headers) if self._cors else ()
        return self._router.handler(exchange.scope, exchange, cors)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["platform"] = self.platform
        if scope["type"] == "http":
            send = never_sniffed(send)
        await self._route(scope)(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Application"]:
        """Migrates the database, starts the background services, and stops them at the end."""
        ending = Ending(STOP_SECONDS)
        async with self.answering(ending), self.working(ending):
            yield self

    @asynccontextmanager
    async def answering(self, ending: Ending) -> AsyncIterator["Application"]:
        """Migrates the database and connects what requests need, without background services."""
        async with AsyncExitStack() as stack:
            at_end = functools.partial(_at_end, stack, ending)
            at_end("database", self.database.close)
            await migrations.upgrade(self.database)
            await installation.check_secret(self.settings, self.database)
            async with self.database.write() as session:
                await endpoints.note_tiers(session, self.platform.tiers)
            await self.database.start()
            await self.clock.start()
            at_end("clock", self.clock.stop)
            at_end("keys", self.platform.keys.stop)
            at_end("sessions", self.platform.sessions.stop)
            at_end("storages", self.platform.stores.close)
            yield self

    @asynccontextmanager
    async def working(self, ending: Ending) -> AsyncIterator["Application"]:
        """Starts the background services."""
        async with AsyncExitStack() as stack:
            at_end = functools.partial(_at_end, stack, ending)
            await self._confirmer.start()
            at_end("confirmer", self._confirmer.stop)
            sender = Sender(self.platform.clock, allow_private=self.settings.webhooks_allow_private)
            at_end("webhooks", sender.close)
            dispatcher = Dispatcher(self.database, self.platform.clock)
            reconciler = Reconciler(self.database, self.platform.tiers, self.platform.clock)
            workers = enumerate(self._workers(sender))
            parts: dict[str, BackgroundService] = {f"worker {number}": worker for number, worker in workers} | {
                "dispatcher": dispatcher.loop,
                "router": self._router,
                "links": self.links,
                "reconciler": reconciler.loop,
                "rebuilder": search.Rebuilder(self.database).loop,
                "chores": self.chores,
            }
            for name, part in parts.items():
                await part.start()
                at_end(name, part.stop)
            at_end("pages", self.end_streams)
            yield self

    async def leave(self) -> bool:
        """Call it before the end, while requests are still answered: `/readyz` answers 503, and agents connect to other
        processes. Returns whether there are any, to which clients may turn."""

        async def tell() -> bool:
            await self._confirmer.leave()
            return await self.links.leave()

        try:
            return await within(_LEAVE_SECONDS, tell())
        except Exception as error:  # noqa: BLE001 - the process stops in any case
            outages.report("cannot tell the agents that this process stops", error)
            return not self.database.is_sqlite

    async def end_streams(self) -> None:
        """Ends endless streams, which a stopping HTTP server would wait for, and requests of other processes."""
        self.links.refuse_requests()
        await self.platform.live.stop()

    def _workers(self, sender: Sender) -> Iterator[Worker]:
        """So that webhooks do not wait for the hashing of weights, nor pushes for moves, nor recalls for webhooks."""
        secret, clock, place = self.settings.signing_secret(), self.platform.clock, self._place()
        deliverer = webhook_jobs.Deliverer(self.database, sender, secret, clock)
        delivering = {webhook_jobs.DELIVER: deliverer.deliver}
        yield Worker(self.database, processing_jobs.handlers(self.platform), clock, holder=place)
        yield Worker(self.database, moves_jobs.handlers(self.platform), clock, holder=place, parallel=1)
        yield Worker(self.database, imports_jobs.handlers(self.platform), clock, holder=place, parallel=_IMPORTS)
        yield Worker(self.database, endpoints_jobs.handlers(self.platform), clock, holder=place, parallel=1)
        yield Worker(self.database, delivering, clock, holder=place, parallel=webhook_jobs.PARALLEL)

    def _place(self) -> str:
        """Identifies this process among those on the same database; the same after a restart."""
        if self.database.is_sqlite:
            return "the only one"
        return f"{socket.gethostname()} {self.settings.data_dir.absolute()} {self.settings.host}:{self.settings.port}"

    def _route(self, scope: Scope) -> ASGIApp:
        if scope["type"] == "http":
            if scope["path"].startswith(signed_urls.PATH) and SEPARATOR in scope["path"]:
                return self._relayed
            if self._files is not None and scope["path"].startswith(signed_urls.PATH):
                return self._files
            if scope["path"].startswith(hugging_face.PREFIX):
                return self._hugging_face
            if Router.matches_path(scope["path"]):
                return self._inference
            named = _PROJECT_PATH.fullmatch(scope["path"])
            written: bytes = scope["raw_path"]
            if named:
                scope["project_id"], scope["path"] = named.groups()
                written = b"/" + written.lstrip(b"/").partition(b"/")[2]
            scope["path"] = model_paths.joined(scope["path"], written, BELOW_MODELS)
            scope["raw_path"] = scope["path"].encode()
        else:
            return self.links.asgi if scope["path"] == LINK_PATH else self._router.forwarder.asgi
        return self._api

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._running.enter_async_context(self.running())
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._running.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def _at_end(stack: AsyncExitStack, ending: Ending, name: str, stop: Callable[[], Awaitable[object]]) -> None:
    stack.push_async_callback(ending.end, name, stop)


def create_app(settings: Settings) -> Application:
    """Builds the platform for these settings. It starts with its lifespan."""
    return Application(settings)


def _platform(
    settings: Settings, database: Database, clock: DatabaseClock, confirmer: PropagationTracker
) -> PagesPlatform:
    keys = KeyAuthenticator(database, clock, grace=settings.database_grace_seconds)
    sessions = SessionAuthenticator(database, clock, grace=settings.database_grace_seconds)
    book = tiers.load(settings.tiers_file)
    secret = settings.signing_secret()
    store = open_store(settings.storage_url, data_dir=settings.data_dir, secret=secret, clock=clock)
    search.follow_changes(database)
    endpoints.follow_changes(database)
    fleet.follow_changes(database)
    oci.follow_changes(database)

    async def find_project(project_id: str) -> Project | None:
        async with database.read() as session:
            return await accounts.get_project(session, project_id)

    async def find_own_model(caller: Caller, reference: str) -> uuid.UUID | None:
        async with database.read() as session:
            return await sharing.find_own_id(session, caller, reference)

    return PagesPlatform(
        settings=settings,
        database=database,
        store=store,
        stores=ProjectStores(store, database, settings, clock, secret),
        authenticate=keys.authenticate,
        authenticate_hash=keys.authenticate_hash,
        authenticate_person=sessions.authenticate,
        find_project=find_project,
        find_own_model=find_own_model,
        public_buckets=TokenBuckets(settings.public_requests_per_minute, clock),
        clock=clock,
        metrics=CollectorRegistry(),
        why_not_ready=Readiness([confirmer.check, store.check], is_leaving=lambda: confirmer.is_leaving).reasons,
        tiers=book,
        endpoint_policy=EndpointPolicy(
            book,
            promotion=settings.catalog_promotion,
            capacity=fleet.capacity,
            weights=weight_deletions.weights,
        ),
        verdicts=Verdicts(secret),
        admission=Admission(ledger=Ledger(database, clock)),
        keys=keys,
        sessions=sessions,
        sign_in=SignIn(database, settings, clock),
        live=Live(database),
    )


def _chores(platform: PagesPlatform) -> Iterator[Chore]:
    """Regular maintenance. Includes restarting recalls whose job failed."""

    def writing(sweep: Callable[..., Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        async def run() -> None:
            async with platform.database.write() as session:
                await sweep(session, now=platform.now())

        return run

    yield Chore("note the use of keys", platform.keys.note_use)
    yield Chore("end uploads that have expired", functools.partial(expiry.end_expired, platform))
    yield from hugging_face.chores(platform)
    yield Chore("collect garbage", functools.partial(expiry.collect_garbage, platform))
    yield Chore("learn the words of models", functools.partial(search.learn, platform.database))
    yield Chore("end sessions that have expired", writing(accounts_sessions.sweep))
    yield Chore("forget old deliveries", writing(webhooks.forget_old))
    yield Chore("resume recalls", writing(recalls.resume_overdue))
    yield Chore("forget limits that are not used", writing(forget_unused))
    yield Chore("forget old records", Retention(platform).sweep_when_due)
    yield Chore("delete records of failed jobs", writing(jobs.forget_given_up))
    yield Chore("roll up usage", functools.partial(endpoints_jobs.roll_up_usage, platform))
