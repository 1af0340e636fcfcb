"""The doctor finds what is wrong, says what to do, and changes nothing."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import update

from conftest import ON_SQLITE, Tenant
from modelshare.server.app import Application
from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import Database
from modelshare.server.doctor.checks import Finding, Level, examine
from modelshare.server.jobs import GivenUpRow
from modelshare.server.migrations import downgrade
from modelshare.server.registry.tables import ModelRow
from modelshare.server.settings import Settings
from modelshare.server.sharing.search.tables import CatalogEntryRow
from uploading import pushed, tiny_model

pytestmark = pytest.mark.anyio
ELSEWHERE = {"reachable", "disk"}
"""What depends on the machine: no server listens there."""


async def findings(settings: Settings, *, every_file: bool = False) -> dict[str, Finding]:
    found = [each async for each in examine(settings.model_copy(update={"port": 1}), every_file=every_file)]
    assert all(each.remedy for each in found if each.level is not Level.OK)
    return {each.check: each for each in found}


async def bad(settings: Settings, *, every_file: bool = False) -> dict[str, Finding]:
    found = await findings(settings, every_file=every_file)
    return {name: each for name, each in found.items() if each.level is not Level.OK and name not in ELSEWHERE}


@pytest.mark.usefixtures("running_app")
async def test_nothing_is_wrong_with_a_platform_in_use(owner: Tenant, settings: Settings) -> None:
    model = await pushed(owner.http, tiny_model())
    await owner.http.post(f"/v1/models/{model['id']}/share")
    found = await findings(settings, every_file=True)
    assert await bad(settings, every_file=True) == {}
    assert list(found) == [
        *("settings", "folder", "reachable", "disk", "storage", "database", "integrity", "secret", "clock"),
        *("catalog", "jobs", "weights"),
    ]


@ON_SQLITE
@pytest.mark.usefixtures("running_app")
@pytest.mark.parametrize(
    ("damage", "every_file"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), True),
        (lambda path: path.write_bytes(b"short"), False),
        (lambda path: path.unlink(), False),
    ],
    ids=["a flipped byte", "another size", "a lost file"],
)
async def test_damaged_weights_are_named_by_their_model(
    app: Application, owner: Tenant, settings: Settings, damage: Callable[[Path], Any], every_file: bool
) -> None:
    await pushed(owner.http, tiny_model())
    files = [path for path in (app.settings.data_dir / "storage/blobs").rglob("*") if path.is_file()]
    damage(max(files, key=lambda path: path.stat().st_size))
    found = await bad(settings, every_file=every_file)
    assert list(found) == ["weights"]
    assert "tiny 1.0.0" in found["weights"].message


async def broken(app: Application, owner: Tenant, row: Any) -> None:
    async with app.database.write() as session:
        if isinstance(row, GivenUpRow):
            session.add(row)
        else:
            await session.execute(row)


@pytest.mark.usefixtures("running_app")
async def test_rows_that_contradict_each_other_are_found(app: Application, owner: Tenant, settings: Settings) -> None:
    model = await pushed(owner.http, tiny_model())
    await owner.http.post(f"/v1/models/{model['id']}/share")
    wrong = {
        "clock": (update(AuditRow).values(at=AuditRow.at + 900), update(AuditRow).values(at=AuditRow.at - 900)),
        "catalog": (update(CatalogEntryRow).values(name="x"), update(CatalogEntryRow).values(name="tiny")),
    }
    for check, (break_it, repair_it) in wrong.items():
        await broken(app, owner, break_it)
        assert list(await bad(settings)) == [check]
        await broken(app, owner, repair_it)
    await broken(app, owner, update(ModelRow).values(active_endpoints=1))
    assert "contradict" in (await bad(settings))["catalog"].message
    await broken(app, owner, update(ModelRow).values(active_endpoints=0))
    await broken(app, owner, GivenUpRow(kind="k", subject="s", attempts=5, error="E", given_up_at=1))
    assert (await bad(settings))["jobs"].level is Level.WARNING


@ON_SQLITE
async def test_a_secret_that_does_not_fit_or_can_be_read(app: Application, owner: Tenant, settings: Settings) -> None:
    other = settings.model_copy(update={"secret": SecretStr(secrets.token_hex(32))})
    assert list(await bad(other)) == ["secret"]
    file = settings.data_dir / "secret.key"
    file.chmod(0o644)
    assert "chmod 600" in str((await bad(settings))["folder"].remedy)
    file.unlink()
    assert "missing" in (await bad(settings))["secret"].message
    assert not file.exists(), "it is for the operator to bring back"


async def test_where_there_is_nothing_nothing_is_created(tmp_path: Path) -> None:
    found = await bad(Settings(data_dir=tmp_path / "none"))
    assert list(found) == ["folder"]
    (tmp_path / "empty").mkdir()
    found = await bad(Settings(data_dir=tmp_path / "empty"))
    assert list(found) == ["storage", "database"]
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


@ON_SQLITE  # a database of PostgreSQL is used again by other tests
async def test_a_database_that_is_away_or_old_is_said(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "data" / "storage").mkdir(mode=0o700, parents=True)
    away = Settings(data_dir=tmp_path / "data", database_url="postgresql://postgres@127.0.0.1:1/none")
    assert "Cannot use the database" in (await bad(away))["database"].message
    here = Settings(data_dir=tmp_path / "data", database_url=database_url)
    database = Database(here.database)
    await downgrade(database, "0013")
    await database.close()
    assert "modelshare db upgrade" in str((await bad(here))["database"].remedy)


@ON_SQLITE
async def test_a_damaged_database_is_an_error(app: Application, owner: Tenant, settings: Settings) -> None:
    await app.database.close()
    path = Path(app.database.url.database or "")
    content = bytearray(path.read_bytes())
    content[8192:] = secrets.token_bytes(len(content) - 8192)
    copy = path.with_name("damaged.db")
    copy.write_bytes(content)
    damaged = settings.model_copy(update={"database_url": f"sqlite:///{copy}"})
    assert {"integrity", "database"} & (await bad(damaged)).keys()
