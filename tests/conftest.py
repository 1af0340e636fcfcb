"""Fixtures of every test: both databases, the running platform, clients with keys."""

import itertools
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from modelshare.server import migrations
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application, create_app
from modelshare.server.db import Database
from modelshare.server.settings import Settings
from modelshare.wire.keys import ProjectCreate, ProjectWithKey
from postgres import postgres_server, run_sql

_numbers = itertools.count()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server, without a database's name."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
async def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated, empty database to copy: a file's path, or the name of a PostgreSQL database."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("sqlite") / "template.db"
        database = Database(f"sqlite+aiosqlite:///{path}")
    else:
        server = request.getfixturevalue("postgres")
        run_sql(server, "CREATE DATABASE template_modelshare")
        database = Database(f"{server.replace('postgresql', 'postgresql+asyncpg')}/template_modelshare")
        path = None
    await migrations.upgrade(database)
    await database.close()
    return str(path) if path else "template_modelshare"


@pytest.fixture
def database_url(migrated: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database, once on SQLite and once on PostgreSQL."""
    if migrated.endswith(".db"):
        shutil.copy(migrated, tmp_path / "test.db")
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{next(_numbers)}"
    run_sql(server, f"CREATE DATABASE {name} TEMPLATE {migrated}")
    yield f"{server}/{name}"
    run_sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url, public_requests_per_minute=1_000_000)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Application]:
    """The running platform, called in this process."""
    application = create_app(settings)
    async with application.running():
        yield application


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
