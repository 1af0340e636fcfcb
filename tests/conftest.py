"""Common fixtures: both databases, the running platform, clients with keys."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import structlog
from argon2 import PasswordHasher

import compiled_statements
import inline_sqlite
import late_imports
import transactions
from invariants import assert_consistent
from kept_connections import kept_connections
from modelshare.server import migrations
from modelshare.server.accounts import passwords
from modelshare.server.accounts import service as accounts
from modelshare.server.app import STOP_SECONDS, Application
from modelshare.server.audit.webhooks.sending import Sender
from modelshare.server.background import Ending
from modelshare.server.db import Database
from modelshare.server.fleet.link import AgentLink
from modelshare.server.settings import Settings
from modelshare.wire.keys import ProjectCreate, ProjectWithKey
from postgres import EmptyDatabases, postgres_server

# The same examples in every run, so that a failure is caused by the tested change; no deadlines, since machines may be
# loaded. `pytest --hypothesis-profile explore tests/unit` tries new random examples.
hypothesis.settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", parent=hypothesis.settings.get_profile("suite"), derandomize=False)
hypothesis.settings.register_profile("quick", parent=hypothesis.settings.get_profile("suite"), max_examples=15)
hypothesis.settings.load_profile("suite")
# Else the threads of an engine, which wait for each other at every step, burn all cores where others work too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
compiled_statements.share()
inline_sqlite.use()
late_imports.install()
gc.disable()  # until everything is collected: what is imported stays
# The default traceback with all variables takes a second to render.
CONSOLE = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], CONSOLE])


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs with SIGINT ignored, and child processes would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONG_SECONDS = 60.0
"""For what hangs: no test waits for it."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def slow_in_transaction() -> Iterator[list[str]]:
    with transactions.watched() as found:
        yield found


@pytest.fixture(scope="session", autouse=True)
def cheap_password_hashes() -> Iterator[None]:
    """Uses cheap parameters in this process, except where a test measures what a hash costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_certificates() -> Iterator[None]:
    """HTTP clients share the certificates they trust: reading them takes 20 ms, mostly for a client without TLS."""
    create = httpx.create_ssl_context
    contexts: dict[tuple[bool, str | None, str | None], ssl.SSLContext] = {}

    def shared(verify: ssl.SSLContext | str | bool = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is not True or cert is not None:
            return create(verify, cert, trust_env)
        key = trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        if key not in contexts:
            contexts[key] = create(trust_env=trust_env)
        return contexts[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Limits of time that only end what hangs: a machine on which tests stand still for seconds is no reason to fail.

    A test that is about such a limit sets its own.
    """
    default = httpx._config.DEFAULT_TIMEOUT_CONFIG
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("connect", "read", "write", "pool"):
            patch.setattr(default, kind, LONG_SECONDS)
        for limit in (
            "audit.webhooks.sending._CONNECT_SECONDS",
            "cache._PATIENCE_SECONDS",
            "router.admission._PATIENCE_SECONDS",
            "router.forward._ACCEPT_SECONDS",
            "router.forward._SILENT_SECONDS",
            "router.ledger._PATIENCE_SECONDS",
        ):
            patch.setattr(f"modelshare.server.{limit}", LONG_SECONDS)
        for limited, limit in ((Sender, "seconds"), (AgentLink, "dead_after")):
            defaults = limited.__init__.__kwdefaults__ or {}
            patch.setattr(limited.__init__, "__kwdefaults__", defaults | {limit: LONG_SECONDS})
        yield


@pytest.fixture(autouse=True)
def nothing_slow_in_a_transaction(slow_in_transaction: list[str]) -> Iterator[None]:
    """See `transactions`."""
    slow_in_transaction.clear()
    yield
    assert slow_in_transaction == []


def pytest_collection_finish() -> None:
    """Excludes all imported objects from garbage collection: each full collection would take 0.3 s longer.

    It also runs less often than usual, else it takes a tenth of the time of all tests.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server, without a database name."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
async def empty_databases(anyio_backend: str, postgres: str) -> AsyncIterator[EmptyDatabases]:
    async with kept_connections(postgres) as kept:
        with contextlib.closing(EmptyDatabases(postgres, kept.pids)) as databases:
            yield databases


Lend = Callable[[Path], AbstractContextManager[str]]
"""Context manager for the URL of an empty database; the folder is the test's own."""


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def lend(anyio_backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lend:
    """Migrated, empty databases, on SQLite and on PostgreSQL. Can be used by synchronous tests as well."""
    if request.param == "sqlite":
        template = tmp_path_factory.mktemp("sqlite") / "template.db"
        asyncio.run(_migrate(f"sqlite+aiosqlite:///{template}"))
        return partial(_lend_copy, template)
    databases: EmptyDatabases = request.getfixturevalue("empty_databases")
    asyncio.run(_migrate(databases.template.replace("postgresql", "postgresql+asyncpg")))
    return lambda _: databases.lend()


ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
"""For tests that reach the database only by statements that other tests run on both."""


@pytest.fixture
async def database_url(lend: Lend, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database, on SQLite and on PostgreSQL.

    Ends what the test leaves running, since on PostgreSQL the event loop lives on.
    """
    others = asyncio.all_tasks()
    with lend(tmp_path) as url:
        yield url
        await _end(asyncio.all_tasks() - others)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in (others := [each for each in tasks if "TestRunner" not in str(each.get_coro())]):
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _migrate(url: str) -> None:
    database = Database(url)
    await migrations.upgrade(database)
    await database.close()


@contextmanager
def _lend_copy(template: Path, folder: Path) -> Iterator[str]:
    shutil.copy(template, folder / "test.db")
    yield f"sqlite:///{folder / 'test.db'}"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url, public_requests_per_minute=1_000_000)


@pytest.fixture
def clock() -> Callable[[], float] | None:
    """The platform's clock, overridden in folders whose tests need a fake one."""
    return None


@pytest.fixture
async def app(settings: Settings, clock: Callable[[], float] | None) -> AsyncIterator[Application]:
    """The platform, called in this process, without background work: see `running_app`.

    After the test, checks that its database is consistent.
    """
    application = Application(settings, clock)
    async with application.answering(Ending(STOP_SECONDS)):
        yield application
        await assert_consistent(application.database)


async def _nothing() -> None: ...


@pytest.fixture
async def running_app(app: Application, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Application]:
    """`app` with all background work: jobs, webhooks, the fleet, confirmations, metering.

    Its chores are done when a test asks for it (`app.chores.do_all`): here they would all run in each test, twice.
    """
    monkeypatch.setattr(app.chores, "start", _nothing)
    monkeypatch.setattr(app.chores, "stop", _nothing)
    async with app.working(Ending(STOP_SECONDS)):
        yield app


@asynccontextmanager
async def running(application: Application) -> AsyncIterator[Application]:
    """Runs another platform with all background work; afterwards checks its database, like `app`."""
    async with application.running():
        yield application
        await assert_consistent(application.database)


@dataclass(frozen=True)
class Tenant:
    """A project, and an HTTP client with its key."""

    project: ProjectWithKey
    http: httpx.AsyncClient


def client_of(app: Application, key: str | None = None) -> httpx.AsyncClient:
    """An HTTP client of the platform in this process, with this key."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://modelshare.test",
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


async def new_tenant(app: Application, slug: str) -> Tenant:
    async with app.database.write() as session:
        request = ProjectCreate(name=slug.title(), slug=slug)
        project = await accounts.create_project(session, request, now=app.platform.now(), actor="system")
    return Tenant(project, client_of(app, project.api_key))


@pytest.fixture
async def owner(app: Application) -> AsyncIterator[Tenant]:
    """A project that owns models."""
    tenant = await new_tenant(app, "acme")
    async with tenant.http:
        yield tenant


@pytest.fixture
async def deployer(app: Application) -> AsyncIterator[Tenant]:
    """Another project."""
    tenant = await new_tenant(app, "borg")
    async with tenant.http:
        yield tenant


@pytest.fixture
async def anonymous(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def operator(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a platform key."""
    async with app.database.write() as session:
        key = await accounts.create_platform_key(session, "operator", now=app.platform.now())
    async with client_of(app, key) as client:
        yield client
