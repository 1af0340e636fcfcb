"""Fixtures of every test: both databases, the running platform, clients with keys."""

import gc
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import hypothesis
import pytest
import structlog

import compiled_statements
import transactions
from invariants import assert_consistent
from modelshare.server import migrations
from modelshare.server.accounts import service as accounts
from modelshare.server.app import STOP_SECONDS, Application
from modelshare.server.background import Ending
from modelshare.server.db import Database
from modelshare.server.settings import Settings
from modelshare.wire.keys import ProjectCreate, ProjectWithKey
from postgres import EmptyDatabases, postgres_server, run_sql

# The same examples in every run, since a failure must come from the change that is tested; no deadlines, since machines
# are loaded. `pytest --hypothesis-profile explore tests/unit` looks for examples that nobody has tried yet.
hypothesis.settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", parent=hypothesis.settings.get_profile("suite"), derandomize=False)
hypothesis.settings.register_profile("quick", parent=hypothesis.settings.get_profile("suite"), max_examples=15)
hypothesis.settings.load_profile("suite")
# Else the threads of an engine, which wait for each other at every step, burn all cores where others work too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
compiled_statements.share()
# Not the traceback with all variables, which takes a second to draw.
CONSOLE = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], CONSOLE])


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells start background jobs; the programs that tests interrupt would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def slow_in_transaction() -> Iterator[list[str]]:
    with transactions.watched() as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_slow_in_a_transaction(slow_in_transaction: list[str]) -> Iterator[None]:
    """See `transactions`."""
    slow_in_transaction.clear()
    yield
    assert slow_in_transaction == []


def pytest_collection_finish() -> None:
    """Takes all that was imported out of the garbage collector's sight: each full round over it costs 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server, without a database's name."""
    with postgres_server() as url:
        yield url


Lend = Callable[[Path], AbstractContextManager[str]]
"""Lends the URL of an empty database; the folder is the test's own."""


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
async def lend(anyio_backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lend:
    """Migrated, empty databases, once on SQLite and once on PostgreSQL. For tests that are not asynchronous as well."""
    if request.param == "sqlite":
        template = tmp_path_factory.mktemp("sqlite") / "template.db"
        await _migrate(f"sqlite+aiosqlite:///{template}")
        return partial(_lend_copy, template)
    server = request.getfixturevalue("postgres")
    run_sql(f"{server}/postgres", "CREATE DATABASE template_modelshare")
    await _migrate(f"{server.replace('postgresql', 'postgresql+asyncpg')}/template_modelshare")
    databases = EmptyDatabases(server, "template_modelshare")
    return lambda _: databases.lend()


@pytest.fixture
def database_url(lend: Lend, tmp_path: Path) -> Iterator[str]:
    """A fresh database, once on SQLite and once on PostgreSQL."""
    with lend(tmp_path) as url:
        yield url


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
    """The platform's; a folder whose tests turn it has one of its own."""
    return None


@pytest.fixture
async def app(settings: Settings, clock: Callable[[], float] | None) -> AsyncIterator[Application]:
    """The platform, called in this process. Nothing works in the background: see `running_app`.

    In the end its database agrees with itself, whatever the test did.
    """
    application = Application(settings, clock)
    async with application.answering(Ending(STOP_SECONDS)):
        yield application
        await assert_consistent(application.database)


@pytest.fixture
async def running_app(app: Application) -> AsyncIterator[Application]:
    """`app`, with all that works in the background: jobs, webhooks, the fleet, chores, confirmations, metering."""
    async with app.working(Ending(STOP_SECONDS)):
        yield app


@asynccontextmanager
async def running(application: Application) -> AsyncIterator[Application]:
    """Another platform with all that works in the background; checked in the end as `app` is."""
    async with application.running():
        yield application
        await assert_consistent(application.database)


@dataclass(frozen=True)
class Tenant:
    """A project and a client that sends its key."""

    project: ProjectWithKey
    http: httpx.AsyncClient


def client_of(app: Application, key: str | None = None) -> httpx.AsyncClient:
    """A client of the platform in this process, with this key."""
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
