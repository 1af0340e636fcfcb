"""Who may end a job: only the holder of its lease; and what happens when nobody can."""

import asyncio
import uuid
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.jobs import MAX_ATTEMPTS, JobRow, Lease, Worker
from modelshare.server.registry.processing.jobs import process
from modelshare.server.registry.tables import UploadRow, VersionRow
from uploading import open_upload, opening, pushed, send, tiny_model, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def _handed_over(app: Application, owner: Tenant) -> uuid.UUID:
    """A version that waits for processing and has no job."""
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, files)
    async with app.database.write() as session:
        await session.execute(update(UploadRow).values(state="completed"))
        await session.execute(update(VersionRow).values(status="processing"))
        return (await session.scalars(select(VersionRow.id))).one()


async def _lease(app: Application, version_id: uuid.UUID, attempt: int = 1) -> Lease:
    token = uuid.uuid4()
    later = app.platform.now() + 3600
    async with app.database.write() as session:
        job = JobRow(kind="test", subject=str(version_id), run_after=later, lease_token=token, lease_until=later)
        session.add(job)
        await session.flush()
        return Lease(job.id, token, str(version_id), attempt)


async def _end(app: Application, lease: Lease) -> None:
    async with app.database.write() as session:
        await session.execute(delete(JobRow).where(JobRow.id == lease.job_id))


async def _status(app: Application, version_id: uuid.UUID) -> tuple[str, str | None]:
    async with app.database.read() as session:
        version = await session.get_one(VersionRow, version_id)
        return version.status, version.status_reason


async def test_a_worker_without_the_lease_changes_nothing(app: Application, owner: Tenant) -> None:
    version_id = await _handed_over(app, owner)
    stale = Lease(uuid.uuid4(), uuid.uuid4(), str(version_id), MAX_ATTEMPTS)
    await process(app.platform, stale, fresh=False)
    assert await _status(app, version_id) == ("processing", None)
    await process(app.platform, await _lease(app, version_id), fresh=False)
    assert await _status(app, version_id) == ("ready", None)


async def test_doing_it_twice_is_doing_it_once(app: Application, owner: Tenant) -> None:
    version_id = await _handed_over(app, owner)
    lease = await _lease(app, version_id)
    await process(app.platform, lease, fresh=False)
    await process(app.platform, lease, fresh=False)
    assert await _status(app, version_id) == ("ready", None)
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("model.ready") == 1


async def test_the_last_attempt_says_that_the_server_gave_up(app: Application, owner: Tenant) -> None:
    version_id = await _handed_over(app, owner)
    (app.settings.data_dir / "storage" / "blobs" / owner.project.id).touch()  # in the way of the project's folder
    for attempt, outcome in ((1, "processing"), (MAX_ATTEMPTS, "failed")):
        lease = await _lease(app, version_id, attempt)
        with pytest.raises(OSError, match=r"exists|directory"):
            await process(app.platform, lease, fresh=False)
        assert (await _status(app, version_id))[0] == outcome
        await _end(app, lease)
    reason = (await _status(app, version_id))[1]
    assert reason is not None
    assert "revalidate" in reason


async def test_giving_up_says_nothing_against_a_version_that_is_ready(app: Application, owner: Tenant) -> None:
    await pushed(owner.http, tiny_model())
    async with app.database.read() as session:
        version_id = (await session.scalars(select(VersionRow.id))).one()
    await process(app.platform, await _lease(app, version_id, MAX_ATTEMPTS + 1), fresh=True)
    assert await _status(app, version_id) == ("ready", None)


async def test_bytes_that_are_gone_are_said_to_be(app: Application, owner: Tenant) -> None:
    version_id = await _handed_over(app, owner)
    for data in Path(app.settings.data_dir / "storage" / "staging").rglob("data"):
        data.unlink()
    await process(app.platform, await _lease(app, version_id), fresh=False)
    status, reason = await _status(app, version_id)
    assert (status, reason) == ("failed", "Some of this version's bytes are missing in storage. Push it again.")


async def test_a_version_that_is_gone_needs_nothing(app: Application, owner: Tenant) -> None:
    await process(app.platform, Lease(uuid.uuid4(), uuid.uuid4(), str(uuid.uuid4()), 1), fresh=False)


async def test_many_pushes_at_once(app: Application, owner: Tenant) -> None:
    same = [owner.http.post("/v1/uploads", json=opening(tiny_model(), "same")) for _ in range(8)]
    others = [owner.http.post("/v1/uploads", json=opening({"a.gguf": bytes(n + 1)}, "other")) for n in range(8)]
    answers = await asyncio.gather(*same, *others)
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["id"] for answer in answers[:8]}) == 1
    assert sorted(answer.json()["version"] for answer in answers[8:]) == [f"1.0.{n}" for n in range(8)]


async def test_pushes_and_deletions_at_once(app: Application, owner: Tenant) -> None:
    """Blobs are taken up and let go of at the same moment; whatever is ready is whole."""
    files = tiny_model()
    base = await pushed(owner.http, files, "base")

    async def again(number: int) -> None:
        model = await pushed(owner.http, files, f"m{number}", claims=True)
        assert model["status"] == "ready", model["status_reason"]
        assert (await owner.http.post(f"/v1/models/{model['id']}/revalidate")).status_code == 200
        assert (await owner.http.delete(f"/v1/models/{model['id']}")).status_code == 204

    await asyncio.gather(owner.http.delete(f"/v1/models/{base['id']}"), *(again(number) for number in range(6)))
    assert (await pushed(owner.http, files, "after", claims=True))["status"] == "ready"


async def test_a_worker_stops_even_if_a_job_comes_just_then(app: Application) -> None:
    worker = Worker(app.database, {}, app.platform.clock, holder="test")
    await worker.start()
    await wait_until(lambda: bool(worker._wake._waiters))
    worker._told("*")
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await worker.stop()
