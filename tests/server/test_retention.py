"""Records of what is over are kept as long as the settings say, and what is still needed is kept longer."""

import json
import os
import resource
import stat
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, select

from clock import Clock
from conftest import ON_SQLITE, Tenant
from modelshare.server.accounts.tables import KeyRow
from modelshare.server.app import Application
from modelshare.server.audit.tables import AuditRow, ConfirmationRow
from modelshare.server.db import Table
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.fleet.tables import AgentRow, WeightDeletionRow
from modelshare.server.migrations.tables import metadata
from modelshare.server.recovery import export_audit
from modelshare.server.registry.tables import UploadFileRow, UploadRow
from modelshare.server.retention import queries
from modelshare.server.retention.sweep import Retention
from modelshare.server.settings import Settings
from uploading import open_upload, pushed, tiny_model

pytestmark = pytest.mark.anyio
DAY = 24 * 3600


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(
        update={
            "audit_days": 4,
            "audit_confirmations_days": 2,
            "deletions_days": 4,
            "records_days": 3,
            "audit_archive_dir": tmp_path / "archive",
        }
    )


async def sizes(app: Application) -> Counter[str]:
    async with app.database.read() as session:
        return Counter(
            {
                table.name: int(await session.scalar(select(func.count()).select_from(table)) or 0)
                for table in metadata.sorted_tables
            }
        )


async def a_day(owner: Tenant, model: str) -> None:
    """What leaves records."""
    key = (await owner.http.post("/v1/keys", json={"name": "of today"})).json()
    assert (await owner.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
    join_key = (await owner.http.post("/v1/join-keys", json={"name": "of today"})).json()
    assert (await owner.http.delete(f"/v1/join-keys/{join_key['id']}")).status_code == 204
    upload = await open_upload(owner.http, tiny_model(seed=7), "another")
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")).status_code == 200
    for action in ("share", "unshare"):
        assert (await owner.http.post(f"/v1/models/{model}/{action}")).status_code < 300


@ON_SQLITE
@pytest.mark.usefixtures("running_app")
async def test_the_database_stays_as_large_as_it_is(app: Application, owner: Tenant, clock: Clock) -> None:
    """Two weeks in which the same happens every day."""
    model = (await pushed(owner.http, tiny_model()))["id"]
    seen = []
    for _ in range(14):
        await a_day(owner, model)
        clock.now += DAY
        await Retention(app.platform).sweep()
        seen.append(await sizes(app))
    assert seen[1]["audit_log"] < seen[4]["audit_log"]
    for table in ("audit_log", "keys", "join_keys", "uploads"):
        assert len({day[table] for day in seen[6:]}) == 1, f"{table} grows"
    assert seen[-1]["audit_confirmations"] < seen[-1]["audit_log"]  # they are written a moment later


@ON_SQLITE
@pytest.mark.usefixtures("running_app")
async def test_entries_are_archived_before_they_are_deleted(
    app: Application, owner: Tenant, clock: Clock, tmp_path: Path
) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    await a_day(owner, model)
    async with app.database.read() as session:
        before = [row.action for row in await session.scalars(select(AuditRow).order_by(AuditRow.id))]
    count = await export_audit(app.settings, tmp_path / "export.jsonl", before=int(clock.now) + 1)
    assert stat.S_IMODE((tmp_path / "export.jsonl").stat().st_mode) == 0o600
    clock.now += 5 * DAY
    await app.chores.do_all()
    assert (await sizes(app))["audit_log"] <= 1, "at most what happened just now"
    archived = [line for file in sorted((tmp_path / "archive").iterdir()) for line in file.read_text().splitlines()]
    exported = (tmp_path / "export.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in archived] == before
    assert (exported, count) == (archived, len(before))
    [file] = (tmp_path / "archive").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@ON_SQLITE
async def test_a_server_that_is_often_restarted_forgets_too(app: Application, owner: Tenant, clock: Clock) -> None:
    assert (await owner.http.post("/v1/keys", json={"name": "old"})).status_code == 201
    clock.now += 5 * DAY
    started = Retention(app.platform)
    clock.now += 300
    await started.sweep_when_due()
    assert (await sizes(app))["audit_log"] == 0


@ON_SQLITE
@pytest.mark.usefixtures("running_app")
async def test_an_interrupted_attempt_to_archive_spoils_no_line(
    app: Application, owner: Tenant, clock: Clock, tmp_path: Path
) -> None:
    """A disk that is full, then a process that was killed, and each time the beginning of a line was written."""
    await a_day(owner, (await pushed(owner.http, tiny_model()))["id"])
    async with app.database.read() as session:
        [first, *_] = rows = list(await session.scalars(select(AuditRow).order_by(AuditRow.id)))
    file = tmp_path / "archive" / time.strftime("audit-%Y-%m.jsonl", time.gmtime(first.at))
    clock.now += 5 * DAY
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    file.parent.mkdir()
    with file.open("wb") as archived:
        archived.truncate(1 << 30)  # sparse, and larger than anything else that is written here
        archived.seek(-1, os.SEEK_END)
        archived.write(b"\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, ((1 << 30) + 100, allowed[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            await Retention(app.platform).sweep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert file.stat().st_size == 1 << 30
    file.write_bytes(b'{"id": "from befo')
    await Retention(app.platform).sweep()
    archived_ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert archived_ids == [str(row.id) for row in rows]


async def add(app: Application, *rows: Table) -> None:
    async with app.database.write() as session:
        for row in rows:
            session.add(row)
            await session.flush()


async def test_what_is_still_needed_is_kept(app: Application, owner: Tenant, clock: Clock) -> None:
    long_ago, project, model = int(clock.now) - 400 * DAY, owner.project.id, uuid.uuid4()
    key = {"project_id": project, "name": "k", "hint": "h", "scopes": [], "allowed_ips": [], "created_at": 1}
    used, unused, open_upload_, staged, closed = (uuid.uuid4() for _ in range(5))
    usage = {"endpoint_slug": "e", "requests": 1, "errors": 0, "prompt_tokens": 1, "completion_tokens": 1}
    upload: dict[str, Any] = {"project_id": project, "model_id": model, "model_name": "m", "version_name": "1.0.0"}
    upload |= {"part_size": 1, "bytes_total": 1, "created_at": 1, "expires_at": long_ago}
    agent = {"project_id": project, "state": "removed", "capabilities": {}, "created_at": long_ago}
    gone, deleting, unheard = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    deletion = {"model_id": model, "version": "1.0.0", "asked_at": 1}
    await add(
        app,
        KeyRow(id=used, revoked_at=long_ago, **key),
        KeyRow(id=unused, revoked_at=long_ago, **key),
        UsageRow(day="2026-01-01", endpoint_id=uuid.uuid4(), key_id=used, project_id=project, **usage),
        UploadRow(id=open_upload_, state="open", **upload),
        UploadRow(id=staged, state="completed", **upload),
        UploadFileRow(upload_id=staged, n=0, path="a", size=1, key="k"),
        UploadRow(id=closed, state="completed", **upload),
        AgentRow(id=gone, name="gone", token_hash="a", **agent),
        AgentRow(id=deleting, name="deleting", token_hash="b", **agent),
        AgentRow(id=unheard, name="unheard", token_hash="c", **agent),
        WeightDeletionRow(deployment_id=uuid.uuid4(), agent_id=deleting, **deletion),
        WeightDeletionRow(deployment_id=uuid.uuid4(), agent_id=gone, confirmed_at=long_ago, **deletion),
        WeightDeletionRow(deployment_id=uuid.uuid4(), agent_id=unheard, closed_at=int(clock.now), **deletion),
    )
    await Retention(app.platform).sweep()
    async with app.database.read() as session:
        assert unused not in set(await session.scalars(select(KeyRow.id)))
        assert used in set(await session.scalars(select(KeyRow.id)))
        assert set(await session.scalars(select(UploadRow.id))) == {open_upload_, staged}
        assert set(await session.scalars(select(AgentRow.id))) == {deleting, unheard}
        assert set(await session.scalars(select(WeightDeletionRow.agent_id))) == {deleting, unheard}


async def test_a_backlog_goes_in_small_steps(
    app: Application, owner: Tenant, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "STEP", 2)
    old = {"at": int(clock.now) - 9 * DAY, "actor": "a", "target": "t", "outcome": "done", "details": {}}
    ids = [uuid.UUID(int=n) for n in range(1, 6)]  # as of the oldest entries
    rows = [AuditRow(id=id_, project_id=owner.project.id, action="a.b", changed_ms=1, **old) for id_ in ids]
    await add(app, *rows, ConfirmationRow(audit_id=ids[0], process="p", at_ms=1))
    await Retention(app.platform).sweep()
    async with app.database.read() as session:
        assert "a.b" not in set(await session.scalars(select(AuditRow.action)))
        assert list(await session.scalars(select(ConfirmationRow))) == []


@ON_SQLITE
async def test_usage_is_read_once_for_all_keys_that_may_be_forgotten(app: Application, owner: Tenant) -> None:
    """A transaction that reads all usage again for every key would keep SQLite's other writers waiting for seconds."""
    asked: list[tuple[str, Any]] = []
    async with app.database.write() as session:
        connection = await session.connection()
        event.listen(
            connection.sync_connection,
            "before_cursor_execute",
            lambda _, __, statement, parameters, *___: asked.append((statement, parameters)),
        )
        await queries.forget_keys(session, 1)
        (statement, parameters), *_ = asked
        found = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        plan = [str(row.detail) for row in found]
    assert any("SUBQUERY" in step for step in plan)
    assert not any("CORRELATED" in step for step in plan)
