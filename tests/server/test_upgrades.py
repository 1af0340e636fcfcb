"""An upgrade beside running processes: who may go on, who stops writing, and what older ones leave is rebuilt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import structlog
from sqlalchemy import text

from conftest import ON_SQLITE, Tenant, new_tenant
from factories import make_model
from invariants import stale_entries
from modelshare.server import migrations, outages
from modelshare.server.app import Application
from modelshare.server.db import Database
from modelshare.server.migrations import DataLossError, SchemaTooNewError, UnknownRevisionError
from modelshare.server.settings import Settings
from modelshare.server.sharing.search import Rebuilder
from served import wait_until

pytestmark = pytest.mark.anyio
NEWER = "9000"
AS_OLD = "CASE WHEN terms LIKE ' _form%' THEN substr(terms, 8) ELSE terms END"
"""An entry's terms without its form, as versions before forms wrote them."""


@contextlib.asynccontextmanager
async def schema(app: Application, revision: str, oldest: str | None = None) -> AsyncIterator[None]:
    """The database is at this revision, as after an upgrade by a newer version."""
    database = Database(app.settings.database)
    await _note(database, revision, oldest)
    try:
        yield
    finally:
        await _note(database, migrations.HEAD, migrations.OLDEST_COMPATIBLE)
        await database.close()


async def _note(database: Database, revision: str, oldest: str | None) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        if oldest is not None:
            await connection.execute(text("DELETE FROM schema_compatibility"))
            values = {"revision": revision, "oldest": oldest}
            await connection.execute(text("INSERT INTO schema_compatibility VALUES (:revision, :oldest)"), values)
        if not database.is_sqlite:
            await connection.execute(text(f"SELECT pg_notify('modelshare', 'schema:{revision}')"))


async def test_a_process_that_is_too_old_stops_writing_until_the_schema_fits_again(
    app: Application, owner: Tenant
) -> None:
    async def ready() -> bool:
        return (await owner.http.get("/readyz")).status_code == 200

    async with schema(app, NEWER, NEWER):
        refused = await owner.http.post("/v1/keys", json={"name": "late"})
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["Retry-After"]) > 0
        message = refused.json()["error"]["message"]
        assert message.startswith("This process runs an older version than the database: ")
        assert NEWER in message
        assert (await owner.http.get("/v1/models")).status_code == 200, "it can still be read"
        answer = await owner.http.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, message)
        assert (await owner.http.get("/healthz")).status_code == 200, "or a supervisor would cut its answers"
    names = [key["name"] for key in (await owner.http.get("/v1/keys")).json()["data"]]
    assert "late" not in names
    assert (await owner.http.post("/v1/keys", json={"name": "again"})).status_code == 201
    await wait_until(ready)


async def test_a_newer_schema_that_says_nothing_of_older_processes_stops_them(app: Application, owner: Tenant) -> None:
    async with schema(app, NEWER):
        assert (await owner.http.post("/v1/keys", json={"name": "late"})).status_code == 503
        with pytest.raises(SchemaTooNewError, match=rf"is at revision {NEWER}"):
            await migrations.upgrade(app.database)


async def test_a_process_goes_on_beside_an_upgrade_that_only_adds(app: Application, owner: Tenant) -> None:
    async with schema(app, NEWER, migrations.HEAD):
        assert (await owner.http.post("/v1/keys", json={"name": "late"})).status_code == 201
        assert (await owner.http.get("/readyz")).status_code == 200
        await migrations.upgrade(app.database)  # as another process of this version does at its start


async def test_a_database_that_was_taken_back_is_not_written_to(app: Application, owner: Tenant) -> None:
    async with schema(app, "0026"):
        refused = await owner.http.post("/v1/keys", json={"name": "late"})
        assert refused.status_code == 503
        assert "runs a newer version than the database" in refused.json()["error"]["message"]


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_it_is_said_at_once(app: Application) -> None:
    """By the upgrade's notification, without a write."""
    outages._reported.clear()

    async def is_said() -> bool:
        return any("different versions" in log["event"] and NEWER in log["error"] for log in logs)

    with structlog.testing.capture_logs() as logs:
        async with schema(app, NEWER, NEWER):
            await wait_until(is_said)


@ON_SQLITE
async def test_what_a_newer_version_removed_is_no_error_of_ours(app: Application, owner: Tenant) -> None:
    async with schema(app, NEWER, NEWER):
        async with app.database.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE audit_log RENAME COLUMN target TO subject"))
        refused = await owner.http.get("/v1/audit")
        async with app.database.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE audit_log RENAME COLUMN subject TO target"))
    assert refused.status_code == 503, refused.text
    assert "older version" in refused.json()["error"]["message"]


@pytest.fixture
async def at_head(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database)
    yield database
    await migrations.upgrade(database)  # PostgreSQL's is lent to other tests
    await database.close()


async def test_a_downgrade_deletes_nothing_without_being_told_to(app: Application, at_head: Database) -> None:
    await new_tenant(app, "acme")
    async with at_head.engine.begin() as connection:
        await connection.execute(text("UPDATE projects SET require_signature = true"))
    with pytest.raises(DataLossError) as refused:
        await migrations.downgrade(at_head, "0018", keep_data=True)
    assert refused.value.lost == ["`projects.require_signature`"]
    assert (await migrations.schema_of(at_head)).revision == migrations.HEAD, "it is undone"
    async with at_head.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM projects WHERE require_signature")) == 1

    async with at_head.engine.begin() as connection:
        await connection.execute(text("UPDATE projects SET require_signature = false"))
    await migrations.downgrade(at_head, "0018", keep_data=True)
    assert await migrations.schema_of(at_head) == ("0018", None)
    await migrations.upgrade(at_head)
    assert await migrations.schema_of(at_head) == (migrations.HEAD, migrations.OLDEST_COMPATIBLE)


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_a_migration_gives_way_to_who_uses_the_tables(at_head: Database) -> None:
    """So it cannot deadlock with them, and nobody waits behind it for longer than a moment."""
    await migrations.downgrade(at_head, "0026")

    async def gave_way() -> bool:
        return any(log["event"].startswith("cannot migrate the database while its tables are in use") for log in logs)

    with structlog.testing.capture_logs() as logs:
        async with at_head.engine.begin() as user:
            await user.execute(text("SELECT count(*) FROM catalog_entries"))
            await user.execute(text("LOCK TABLE catalog_entries IN ROW EXCLUSIVE MODE"))
            upgrading = asyncio.ensure_future(migrations.upgrade(at_head))
            await wait_until(gave_way)
            await user.execute(text("DELETE FROM agents"))
        await upgrading
    assert (await migrations.schema_of(at_head)).revision == migrations.HEAD


@ON_SQLITE
async def test_a_revision_that_does_not_exist_is_named(at_head: Database) -> None:
    with pytest.raises(UnknownRevisionError, match="`0x12`"):
        await migrations.downgrade(at_head, "0x12")


@pytest.fixture
async def shared(app: Application, owner: Tenant) -> dict[str, str]:
    """Shared models by name."""
    made = {}
    for name in ("one", "two", "three"):
        made[name] = str(await make_model(app, owner.project.id, name=name))
        assert (await owner.http.post(f"/v1/models/{made[name]}/share")).status_code == 200
    return made


async def listed(owner: Tenant) -> set[str]:
    return {entry["name"] for entry in (await owner.http.get("/v1/catalog/models")).json()["data"]}


@pytest.mark.parametrize(
    "written",
    [
        f"UPDATE catalog_entries SET terms = {AS_OLD}",
        f"UPDATE catalog_entries SET terms = replace({AS_OLD}, ' __public ', ' _public ')",
        "UPDATE catalog_entries SET terms = ''",
        "DELETE FROM catalog_entries WHERE name <> 'two'",
    ],
    ids=["without a form", "with terms that mean nothing now", "empty", "not at all"],
)
async def test_entries_that_an_older_version_wrote_are_rebuilt(
    app: Application, owner: Tenant, shared: dict[str, str], written: str
) -> None:
    async with app.database.engine.begin() as connection:
        await connection.execute(text(written))
    await Rebuilder(app.database).run()
    assert await stale_entries(app.database) == []
    assert await listed(owner) == shared.keys()


async def test_an_entry_that_an_older_process_writes_meanwhile_is_rebuilt_at_once(
    running_app: Application, owner: Tenant, shared: dict[str, str]
) -> None:
    """That process notifies of its change, as each does."""
    other = Database(running_app.settings.database)
    async with other.engine.begin() as connection:
        await connection.execute(text(f"UPDATE catalog_entries SET terms = {AS_OLD}"))
        if not other.is_sqlite:
            await connection.execute(text(f"SELECT pg_notify('modelshare', 'models:{shared['one']}')"))
    await other.close()
    if running_app.database.is_sqlite:  # one process has it to itself
        running_app.database.drop_everything()

    async def are_rebuilt() -> bool:
        return not await stale_entries(running_app.database)

    await wait_until(are_rebuilt)


async def test_entries_of_a_newer_form_are_left_to_the_newer_process(app: Application, shared: dict[str, str]) -> None:
    async with app.database.engine.begin() as connection:
        await connection.execute(text("UPDATE catalog_entries SET terms = replace(terms, ' _form1 ', ' _form2 new ')"))
    await Rebuilder(app.database).run()
    async with app.database.read() as session:
        assert await session.scalar(text("SELECT count(*) FROM catalog_entries WHERE terms LIKE ' _form2 new %'")) == 3
    async with app.database.engine.begin() as connection:
        await connection.execute(text("UPDATE catalog_entries SET terms = replace(terms, ' _form2 new ', ' _form1 ')"))
