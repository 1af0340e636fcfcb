"""A database or a storage that is full, read-only, starting or gone: told as such by the API, inference and /readyz."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from sqlalchemy import event, text
from structlog.testing import capture_logs

from conftest import Tenant, client_of
from modelshare.server import health, outages
from modelshare.server.app import Application
from modelshare.server.db import Database
from postgres import run_sql
from uploading import open_upload, put, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@pytest.fixture(autouse=True)
def told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was told or looked at a moment ago, by another test."""
    monkeypatch.setattr(outages, "_reported", {})
    monkeypatch.setattr(health, "_REMEMBERED_SECONDS", 0.0)


def is_told(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert words in error["message"]
    assert int(answer.headers["retry-after"]) >= 1


async def not_ready(app: Application, words: str) -> None:
    async with client_of(app) as http:
        answer = await http.get("/readyz")
        is_told(answer, 503, words)
        assert str(app.settings.data_dir) not in answer.text
        assert (await http.get("/healthz")).status_code == 200


async def ready(app: Application) -> None:
    async with client_of(app) as http:
        assert (await http.get("/readyz")).status_code == 200


@contextmanager
def read_only(app: Application) -> Iterator[None]:
    """Connections made or taken from now on take no writes."""
    if app.database.is_sqlite:
        with _on_every_connection(app.database, "PRAGMA query_only = ON", "PRAGMA query_only = OFF"):
            yield
        return
    url, name = app.settings.database_url or "", app.database.url.database
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    run_sql(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    run_sql(url, end)
    try:
        yield
    finally:
        run_sql(url.replace(f"/{name}", "/postgres"), f"ALTER DATABASE {name} RESET ALL")
        run_sql(url, end)


@contextmanager
def full(app: Application) -> Iterator[None]:
    """SQLite may not use a page more."""
    with _on_every_connection(app.database, "PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1073741823"):
        yield


@contextmanager
def _on_every_connection(database: Database, before: str, after: str) -> Iterator[None]:
    engine = database.engine.sync_engine
    statement = before

    def checkout(connection: object, *_: object) -> None:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute(statement)
        cursor.close()

    event.listen(engine, "checkout", checkout)
    try:
        yield
    finally:
        event.remove(engine, "checkout", checkout)
        statement = after

        @event.listens_for(engine, "checkout")
        def undo(connection: object, *_: object) -> None:
            checkout(connection)


async def test_a_read_only_database(app: Application, owner: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelshare.server.outages._REPEAT_SECONDS", 3600)
    with read_only(app), capture_logs() as logs:
        for _ in range(3):
            is_told(await owner.http.post("/v1/keys", json={"name": "k"}), 503, "read-only")
        assert (await owner.http.get("/v1/keys")).status_code == 200
        await not_ready(app, "read-only")
    told = [line for line in logs if "writes" in line["event"]]
    assert len(told) == 1
    assert not [line for line in logs if "exc_info" in line]
    await asyncio.sleep(0)
    await ready(app)
    assert (await owner.http.post("/v1/keys", json={"name": "k"})).status_code == 201


async def test_a_storage_that_is_gone_and_comes_back(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    folder = app.settings.data_dir / "storage"
    link = httpx.URL(
        app.platform.store.get_url("a/b", expires_at=app.platform.now() + 60, base_url="http://modelshare.test")
    )
    aside = folder.rename(folder.with_name("aside"))
    is_told(await put(owner.http, upload, 0, 0, files["config.json"]), 503, "storage is unavailable")
    async with client_of(app) as http:
        is_told(await http.get(link), 503, "storage is unavailable")
    await not_ready(app, "storage is unavailable")
    assert not folder.exists()
    aside.rename(folder)
    await ready(app)
    assert (await put(owner.http, upload, 0, 0, files["config.json"])).status_code == 200


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Files of this process grow no further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_disk_on_which_the_storage_has_no_room(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    with no_more_than(10):
        is_told(await put(owner.http, upload, 0, 0, files["config.json"]), 507, "full")
    assert (await put(owner.http, upload, 0, 0, files["config.json"])).status_code == 200


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_a_disk_on_which_the_database_has_no_room(app: Application, owner: Tenant) -> None:
    statuses = set()
    with full(app), capture_logs() as logs:
        for number in range(600):
            answer = await owner.http.post("/v1/keys", json={"name": f"{number:040}"})
            statuses.add(answer.status_code)
            if answer.status_code == 507:
                is_told(answer, 507, "full")
                break
    assert 507 in statuses, statuses
    assert [line for line in logs if "full" in line["event"]]


@pytest.fixture
async def starting() -> AsyncIterator[str]:
    """A PostgreSQL that says to everybody that it is starting up."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"postgresql+asyncpg://nobody@127.0.0.1:{server.sockets[0].getsockname()[1]}/none"


async def error_of(url: str) -> Exception:
    database = Database(url)
    try:
        async with database.read() as session:
            await session.execute(text("SELECT 1"))
    except Exception as error:  # noqa: BLE001 - whatever it is, is what is asked for
        return error
    finally:
        await database.close()
    raise AssertionError("it answers")


async def test_a_database_that_starts_up(starting: str) -> None:
    assert outages.is_database_away(await error_of(starting))


async def test_a_database_that_is_not_there() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    assert outages.is_database_away(await error_of(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none"))


async def test_a_database_of_another_name(postgres: str) -> None:
    url = postgres.replace("postgresql", "postgresql+asyncpg")
    assert outages.is_database_away(await error_of(f"{url}/there_is_none"))
