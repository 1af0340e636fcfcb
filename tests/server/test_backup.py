"""A backup is the platform at one moment, made while it is used; restored, it is that platform again."""

import asyncio
import contextlib
import secrets
import shutil
import stat
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from conftest import ON_SQLITE, Tenant, client_of, running
from modelshare.server import startup
from modelshare.server.app import Application
from modelshare.server.backup import making, remote, restoring, snapshot
from modelshare.server.backup.layout import BackupError, Manifest
from modelshare.server.db import Database, Table
from modelshare.server.jobs import JobRow
from modelshare.server.migrations.tables import metadata
from modelshare.server.registry.blobs.queries import end_hold, hold_deletions
from modelshare.server.registry.tables import GarbageRow
from modelshare.server.settings import Settings, SettingsError
from served import free_port
from storage_servers import S3Server
from uploading import open_upload, push, pushed, send, stored_files, tiny_model, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
Rows = dict[str, list[str]]


class Quiet:
    """Shows no progress; calls `then` when the database is copied and the weights are not."""

    def __init__(self, then: Callable[[], object] = int) -> None:
        self._then = then

    def started(self, total: int) -> None:
        self._then()

    def moved(self, size: int) -> None: ...


async def back_up(settings: Settings, target: Path, *, with_weights: bool = True) -> making.Made:
    return await making.make(settings, target, with_weights=with_weights, progress=Quiet())


async def restore(settings: Settings, source: Path) -> restoring.Restored:
    return await restoring.restore(settings, source, progress=Quiet())


async def rows_of(database: Database) -> Rows:
    """All rows of all tables, but for signs of life, and what only exists while a backup is made."""
    async with database.read() as session:
        return {
            table.name: sorted(map(repr, (await session.execute(select(table))).all()))
            for table in metadata.sorted_tables
            if table.name not in {"deletion_holds", "processes"}
        }


@contextlib.asynccontextmanager
async def database_of(settings: Settings) -> AsyncIterator[Database]:
    database = Database(settings.database)
    try:
        yield database
    finally:
        await database.close()


async def downloaded(http: httpx.AsyncClient, model: dict[str, Any]) -> dict[str, bytes]:
    answer = await http.post(f"/v1/models/{model['id']}/versions/{model['version']}/download")
    assert answer.status_code == 200, answer.text
    return {each["path"]: (await http.get(each["url"])).content for each in answer.json()["files"]}


async def test_a_restored_platform_has_every_row_and_every_byte(
    app: Application, owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    files = tiny_model(pad=100_000)
    model = await pushed(owner.http, files)
    async with asyncio.timeout(60):
        while True:
            before = await rows_of(app.database)
            made = await back_up(settings, tmp_path / "backup")
            if before == await rows_of(app.database):
                break
            shutil.rmtree(tmp_path / "backup")  # something was still done in the background
    restored = await restore(elsewhere, tmp_path / "backup")
    assert (made.damaged, restored.damaged, made.files) == ([], [], 3)
    async with database_of(elsewhere) as database:
        assert await rows_of(database) == before
    assert elsewhere.signing_secret() == settings.signing_secret()
    async with running(Application(elsewhere)) as again, client_of(again, owner.project.api_key) as http:
        assert await downloaded(http, model) == files


@ON_SQLITE
async def test_pushes_go_on_while_a_backup_is_made_and_after_it_was_restored(
    app: Application, owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    first = await pushed(owner.http, tiny_model(), "first")
    half = await open_upload(owner.http, tiny_model(seed=1), "half")
    copied, over = asyncio.Event(), asyncio.Event()

    async def keep_pushing() -> int:
        count = 0
        while not over.is_set():
            await push(owner.http, tiny_model(seed=10 + count), f"model-{count}")
            count += 1
            copied.set()
        return count

    pushing = asyncio.create_task(keep_pushing())
    await copied.wait()
    await back_up(settings, tmp_path / "backup")
    over.set()
    assert await pushing >= 1
    await send(owner.http, half, tiny_model(seed=1))  # the server of the backup is not disturbed
    await restore(elsewhere, tmp_path / "backup")
    async with running(Application(elsewhere)) as again, client_of(again, owner.project.api_key) as http:
        assert await downloaded(http, first) == tiny_model()
        await until(lambda: none_is_unfinished(http))
        for each in await models(http):
            if each["status"] == "ready":
                assert len(await downloaded(http, each)) == 3
            else:
                assert each["status_reason"] == "Some of this version's bytes are missing in storage. Push it again."
        assert "half" not in [each["name"] for each in await models(http)], "its bytes were not in the backup"
        assert await downloaded(http, await pushed(http, tiny_model(seed=1), "half")) == tiny_model(seed=1)


async def models(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    return list((await http.get("/v1/models", params={"limit": 100, "extended": True})).json()["data"])


async def test_nothing_is_deleted_from_storage_during_a_backup(app: Application, owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    hold, before = uuid.uuid4(), stored_files(app)
    async with app.database.write() as session:
        await hold_deletions(session, hold, until=app.platform.now() + 300)
    assert (await owner.http.delete(f"/v1/models/{model['id']}")).status_code == 204
    await until(lambda: is_idle(app.database))
    await app.chores.do_all()
    assert stored_files(app) == before
    assert await count(app.database, GarbageRow) == 3
    async with app.database.write() as session:
        await end_hold(session, hold, now=app.platform.now())
    await app.chores.do_all()
    await wait_until(lambda: stored_files(app) == [])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - the condition is about a database
            await asyncio.sleep(0.01)


async def none_is_unfinished(http: httpx.AsyncClient) -> bool:
    return all(each["status"] not in {"uploading", "processing"} for each in await models(http))


async def is_idle(database: Database) -> bool:
    return await count(database, JobRow) == 0


async def count(database: Database, table: type[Table]) -> int:
    async with database.read() as session:
        return int(await session.scalar(select(func.count()).select_from(table)) or 0)


@ON_SQLITE
async def test_what_is_deleted_after_the_snapshot_is_still_in_the_backup(
    app: Application, owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    model = await pushed(owner.http, tiny_model())
    deleting: list[asyncio.Task[httpx.Response]] = []

    def delete() -> None:
        deleting.append(asyncio.create_task(owner.http.delete(f"/v1/models/{model['id']}")))

    await making.make(settings, tmp_path / "backup", with_weights=True, progress=Quiet(delete))
    assert (await deleting[0]).status_code == 204
    await restore(elsewhere, tmp_path / "backup")
    async with running(Application(elsewhere)) as again, client_of(again, owner.project.api_key) as http:
        assert await downloaded(http, model) == tiny_model()


@ON_SQLITE
async def test_a_backup_is_private_and_has_the_keys(owner: Tenant, settings: Settings, tmp_path: Path) -> None:
    sealing = secrets.token_hex(32)
    given = settings.model_copy(update={"secret_keys": SecretStr(sealing), "public_url": "https://m.example"})
    await pushed(owner.http, tiny_model())
    await back_up(given, tmp_path / "backup")
    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    for path in [tmp_path / "backup", *files]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert (tmp_path / "backup/secret.key").read_bytes() == settings.signing_secret()
    assert (tmp_path / "backup/sealing.key").read_text() == sealing
    assert 'public_url = "https://m.example"' in (tmp_path / "backup/settings.toml").read_text()
    assert sealing not in (tmp_path / "backup/settings.toml").read_text()


@ON_SQLITE
async def test_an_interrupted_backup_is_none_and_goes_on(
    owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    class Cut(Quiet):
        def moved(self, size: int) -> None:
            raise KeyboardInterrupt

    await pushed(owner.http, tiny_model())
    target = tmp_path / "backup"
    with pytest.raises(KeyboardInterrupt):
        await making.make(settings, target, with_weights=True, progress=Cut())
    [unfinished] = tmp_path.glob(".backup.*")
    with pytest.raises(BackupError, match="not a complete backup"):
        await restore(elsewhere, unfinished)
    assert not target.exists()
    [linked] = [path for path in (unfinished / "weights").rglob("*") if path.is_file()]
    inode = linked.stat().st_ino
    await back_up(settings, target)
    assert (target / linked.relative_to(unfinished)).stat().st_ino == inode
    assert list(tmp_path.glob(".backup.*")) == []
    with pytest.raises(BackupError, match="is not empty"):
        await back_up(settings, target)


@ON_SQLITE
async def test_damaged_bytes_are_named_and_can_be_pushed_again(
    app: Application, owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    model = await pushed(owner.http, tiny_model())
    made = await back_up(settings, tmp_path / "backup")
    shutil.copytree(tmp_path / "backup", tmp_path / "moved", copy_function=shutil.copyfile)
    weights = max((tmp_path / "moved/weights").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    restored = await restore(elsewhere, tmp_path / "moved")
    assert (made.damaged, len(restored.damaged)) == ([], 1)
    async with running(Application(elsewhere)) as again, client_of(again, owner.project.api_key) as http:
        fresh = await pushed(http, tiny_model(), version="2.0.0")
        assert await downloaded(http, fresh) == tiny_model()
        assert await downloaded(http, model) == tiny_model(), "the older version has the same blobs"


@ON_SQLITE
@pytest.mark.parametrize("part", ["database.db", "secret.key", "weights.json"])
async def test_a_damaged_backup_is_refused(
    owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path, part: str
) -> None:
    await back_up(settings, tmp_path / "backup")
    file = tmp_path / "backup" / part
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(BackupError, match=rf"{part} is missing or damaged"):
        await restore(elsewhere, tmp_path / "backup")
    assert not elsewhere.data_dir.exists()


async def test_nothing_is_restored_over_something(
    app: Application, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    await back_up(settings, tmp_path / "backup", with_weights=False)
    with pytest.raises(BackupError, match="is not empty"):
        await restore(settings, tmp_path / "backup")
    (file := tmp_path / "file").touch()
    for attempt in (back_up(settings, file / "backup"), restore(elsewhere, file)):
        with pytest.raises(BackupError, match=rf"Cannot use {file}/.*: Not a directory"):
            await attempt
    if elsewhere.database_url:
        with pytest.raises(BackupError, match=r"The database .* is not empty"):
            await restore(settings.model_copy(update={"data_dir": elsewhere.data_dir}), tmp_path / "backup")
        assert list(elsewhere.data_dir.iterdir()) == []
    else:
        with pytest.raises(BackupError, match="is in the data folder"):
            await back_up(settings, settings.data_dir / "backup")


async def test_of_two_restores_at_once_the_second_is_refused(
    app: Application, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    await back_up(settings, tmp_path / "backup", with_weights=False)
    url = f"s3://bucket/prefix?endpoint=http://127.0.0.1:{free_port()}"
    with restoring.sole_restore(elsewhere):
        for second in (restore(elsewhere, tmp_path / "backup"), remote.restore(elsewhere, url, progress=Quiet())):
            with pytest.raises(BackupError, match=f"Another restore into {elsewhere.data_dir}"):
                await second
    if elsewhere.database_url:
        async with database_of(elsewhere) as database, snapshot.sole_user(database):
            with pytest.raises(BackupError, match="Another restore into the database restored_"):
                await restore(elsewhere.model_copy(update={"data_dir": tmp_path / "other"}), tmp_path / "backup")
    await restore(elsewhere, tmp_path / "backup")


@ON_SQLITE
async def test_a_half_restored_platform_does_not_start_and_is_completed(
    owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    class Cut(Quiet):
        def moved(self, size: int) -> None:
            raise KeyboardInterrupt

    model = await pushed(owner.http, tiny_model())
    await back_up(settings, tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        await restoring.restore(elsewhere, tmp_path / "backup", progress=Cut())
    with pytest.raises(SettingsError, match="only partly restored"):
        await startup.started(elsewhere).__aenter__()
    await restore(elsewhere, tmp_path / "backup")
    async with startup.started(elsewhere) as again, client_of(again, owner.project.api_key) as http:
        assert await downloaded(http, model) == tiny_model()


async def test_two_backups_are_not_mixed(
    app: Application, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        await back_up(settings, tmp_path / name, with_weights=False)
    (elsewhere.data_dir / ".restoring").mkdir(parents=True)
    (in_the_way := elsewhere.data_dir / "secret.key").mkdir()  # so that the keys, which come last, cannot be written
    with pytest.raises(BackupError, match=r"Cannot use .*: Is a directory\. Correct this"):
        await restore(elsewhere, tmp_path / "first")
    in_the_way.rmdir()
    with pytest.raises(BackupError, match="Another backup was partly restored"):
        await restore(elsewhere, tmp_path / "second")
    await restore(elsewhere, tmp_path / "first")
    assert in_the_way.read_bytes() == settings.signing_secret()


@ON_SQLITE
async def test_a_restore_keeps_weights_that_survived(
    owner: Tenant, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    """The database's disk was lost, that of the weights was not, and the backup is damaged."""
    model = await pushed(owner.http, tiny_model())
    shutil.copytree(settings.data_dir / "storage", tmp_path / "weights")
    await back_up(settings, tmp_path / "backup")
    shutil.copytree(tmp_path / "backup", tmp_path / "moved", copy_function=shutil.copyfile)
    for file in (tmp_path / "moved/weights").rglob("*"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    there = elsewhere.model_copy(update={"storage_url": (tmp_path / "weights").as_uri()})
    assert (await restore(there, tmp_path / "moved")).damaged == []
    async with startup.started(there) as again, client_of(again, owner.project.api_key) as http:
        assert await downloaded(http, model) == tiny_model()


@ON_SQLITE
async def test_another_platforms_settings_are_refused(settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    await back_up(settings, tmp_path / "backup")
    wrong: dict[str, dict[str, Any]] = {
        "`secret` is not that": {"secret": SecretStr(secrets.token_hex(32))},
        "were on a disk": {"storage_url": "s3://bucket"},
        "Set `database_url` to nothing": {"database_url": "postgresql://localhost/none"},
    }
    for message, changes in wrong.items():
        with pytest.raises(BackupError, match=message):
            await restore(elsewhere.model_copy(update=changes), tmp_path / "backup")
    assert not (elsewhere.data_dir / ".restoring").exists()
    written = tmp_path / "backup/backup.json"
    newer = Manifest.model_validate_json(written.read_bytes()).model_copy(update={"revision": "9999", "version": "9.9"})
    written.write_text(newer.model_dump_json())
    with pytest.raises(BackupError, match=r"newer modelshare, 9\.9"):
        await restore(elsewhere, tmp_path / "backup")


@ON_SQLITE
async def test_a_backup_in_a_bucket(
    owner: Tenant,
    settings: Settings,
    elsewhere: Settings,
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{server.bucket}/backups/{secrets.token_hex(4)}?endpoint={server.endpoint}"
    model = await pushed(owner.http, tiny_model())
    with pytest.raises(BackupError, match="no complete backup at"):
        await remote.restore(elsewhere, url, progress=Quiet())
    made, refused = await asyncio.gather(
        remote.make(settings, url, with_weights=True, progress=Quiet()),
        remote.make(
            settings, f"s3://{server.bucket}/other?endpoint={server.endpoint}", with_weights=True, progress=Quiet()
        ),
        return_exceptions=True,
    )
    assert "Another backup" in str(refused)
    assert isinstance(made, making.Made)
    assert (made.files, list((settings.data_dir / "scratch").iterdir())) == (3, [])
    with pytest.raises(BackupError, match="There is a complete backup"):
        await remote.make(settings, url, with_weights=True, progress=Quiet())
    await remote.restore(elsewhere, url, progress=Quiet())
    async with startup.started(elsewhere) as again, client_of(again, owner.project.api_key) as http:
        assert await downloaded(http, model) == tiny_model()
