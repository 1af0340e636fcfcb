"""Reading a model where it lies: killed half way, changed meanwhile, or with a bucket that does not answer."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from sqlalchemy import select

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.jobs import MAX_ATTEMPTS, JobRow, Lease
from modelshare.server.registry.processing import read_in_place
from modelshare.server.registry.processing.jobs import process
from modelshare.server.registry.tables import FileRow, RegisteredFileRow, VersionRow
from modelshare.server.registry.versions import PROCESS
from modelshare.server.settings import Settings
from modelshare.server.storage_errors import OwnStorageError
from served import wait_until
from storage_servers import S3Server, s3_server
from uploading import tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
FILES = tiny_model() | {"a.txt": b"first", "z.txt": b"last"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the server keeps its buckets."""
    return tmp_path / "theirs"


@pytest.fixture
def server(place: Path) -> Iterator[S3Server]:
    with s3_server(place) as server:
        folder = place / server.bucket / "llama"
        folder.mkdir()
        for path, content in FILES.items():
            (folder / path).write_bytes(content)
        yield server


async def register(owner: Tenant, server: S3Server, **fields: Any) -> httpx.Response:
    keys = {"endpoint": server.endpoint, "access_key_id": server.access_key, "secret_access_key": server.secret_key}
    body = {"source": f"s3://{server.bucket}/llama", "name": "llama", **keys, **fields}
    return await owner.http.post("/v1/models/register", json=body)


async def attempt(app: Application, number: int = 1) -> None:
    """Works on the job that the version waits for."""
    async with app.database.write() as session:
        job = (await session.scalars(select(JobRow).where(JobRow.kind == PROCESS))).one()
        job.lease_token, job.lease_until = uuid.uuid4(), app.platform.now() + 3600
        lease = Lease(job.id, job.lease_token, job.subject, number)
    await process(app.platform, lease, fresh=False)


async def unread(app: Application) -> int:
    async with app.database.read() as session:
        return len(list(await session.scalars(select(RegisteredFileRow))))


async def state(app: Application) -> tuple[str, str]:
    async with app.database.read() as session:
        version = (await session.scalars(select(VersionRow))).one()
    return version.status, version.status_reason or ""


async def test_a_job_that_was_killed_goes_on_after_what_it_has_read(
    app: Application, owner: Tenant, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_in_place, "_BATCH_FILES", 1)
    assert (await register(owner, server)).status_code == 201
    job = asyncio.create_task(attempt(app))

    async def has_begun() -> bool:
        return await unread(app) < len(FILES)

    await wait_until(has_begun)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    left = await unread(app)
    assert left < len(FILES)
    await attempt(app)
    assert await state(app) == ("ready", "")
    assert await unread(app) == 0
    async with app.database.read() as session:
        assert set(await session.scalars(select(FileRow.path))) == FILES.keys()


async def test_what_changes_before_it_was_read_fails_the_version(
    app: Application, owner: Tenant, server: S3Server, place: Path
) -> None:
    await register(owner, server)
    (place / server.bucket / "llama" / "z.txt").write_bytes(b"another")
    await attempt(app)
    assert await state(app) == (
        "failed",
        "z.txt was replaced while the model was being registered. Register it again.",
    )


async def test_a_bucket_that_does_not_answer_is_waited_for(app: Application, owner: Tenant, place: Path) -> None:
    with s3_server(place) as server:
        Path(place / server.bucket / "llama").mkdir()
        for path, content in FILES.items():
            (place / server.bucket / "llama" / path).write_bytes(content)
        assert (await register(owner, server)).status_code == 201
    with pytest.raises(OwnStorageError):
        await attempt(app)
    waits = f"Your storage s3://{server.bucket}/llama is not responding. Check that it is available, then try again."
    assert await state(app) == ("processing", waits)
    await attempt(app, MAX_ATTEMPTS + 1)
    assert await state(app) == ("failed", f"{waits} When it works again, run `modelshare models revalidate`.")


async def test_a_bucket_that_is_gone_fails_the_version(app: Application, owner: Tenant, server: S3Server) -> None:
    await register(owner, server)
    client: Any = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    for path in FILES:
        client.delete_object(Bucket=server.bucket, Key=f"llama/{path}")
    client.delete_bucket(Bucket=server.bucket)
    await attempt(app)
    status, reason = await state(app)
    assert status == "failed"
    assert reason.startswith(f"Your storage s3://{server.bucket}/llama rejects the platform (NoSuchBucket).")
    assert reason.endswith("run `modelshare models revalidate`.")


async def test_thousands_of_files_are_pulled_with_a_few_requests(
    app: Application, owner: Tenant, server: S3Server, place: Path
) -> None:
    """A listing proves them all; one that changed is still found."""
    paths = [f"notes/{number:04}.json" for number in range(2500)]
    folder = place / server.bucket / "llama"
    (folder / "notes").mkdir()
    for path in paths:
        (folder / path).write_bytes(FILES["config.json"])
    assert (await register(owner, server, exclude=["notes/"])).status_code == 201
    await attempt(app)
    async with app.database.write() as session:
        like = (await session.scalars(select(FileRow).where(FileRow.path == "config.json"))).one()
        same = {name: getattr(like, name) for name in ("version_id", "project_id", "sha256", "size", "storage", "pin")}
        session.add_all(FileRow(path=path, **same) for path in paths)
    asked: list[str] = []
    store: Any = await app.platform.stores.get(like.storage)
    store._client.meta.events.register("before-send.s3", lambda request, **_: asked.append(request.url))
    model = (await owner.http.get("/v1/models")).json()["data"][0]["id"]
    pulled = await owner.http.post(f"/v1/models/{model}/versions/1.0.0/download")
    assert len(pulled.json()["files"]) == len(paths) + len(FILES)
    assert len(asked) <= 4, asked
    server.client().delete_object(Bucket=server.bucket, Key=f"llama/{paths[2000]}")
    refused = await owner.http.post(f"/v1/models/{model}/versions/1.0.0/download")
    assert refused.status_code == 409
    status, reason = await state(app)
    assert (status, reason.split(" after")[0]) == ("failed", f"{paths[2000]} is no longer there")
