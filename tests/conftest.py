"""Common fixtures: both databases, the running platform, clients with keys."""

import gc
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

# The same examples in every run, so that a failure is caused by the tested change; no deadlines, since machines may be
# loaded. `pytest --hypothesis-profile explore tests/unit` tries new random examples.
hypothesis.settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("explore", parent=hypothesis.settings.get_profile("suite"), derandomize=False)
hypothesis.settings.load_profile("suite")
compiled_statements.share()
# The default traceback with all variables takes a second to render.
CONSOLE = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], CONSOLE])


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start background jobs with SIGINT ignored, and child processes would inherit that.
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
    """Excludes all imported objects from garbage collection: each full collection would take 0.3 s longer."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server, without a database name."""
    with postgres_server() as url:
        yield url


Lend = Callable[[Path], AbstractContextManager[str]]
"""Context manager for the URL of an empty database; the folder is the test's own."""


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
async def lend(anyio_backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lend:
    """Migrated, empty databases, on SQLite and on PostgreSQL. Can be used by synchronous tests as well."""
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
    """An empty database, on SQLite and on PostgreSQL."""
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


@pytest.fixture
async def running_app(app: Application) -> AsyncIterator[Application]:
    """`app` with all background work: jobs, webhooks, the fleet, chores, confirmations, metering."""
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
