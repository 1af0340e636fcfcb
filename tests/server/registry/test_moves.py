"""`/v1/storage/moves`: versions go from one storage to another, over a real S3 server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from clock import Clock
from conftest import Tenant
from modelshare.server import jobs
from modelshare.server.app import Application
from modelshare.server.db import notify
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.blobs.disposal import COLLECT
from modelshare.server.registry.moves import copying
from modelshare.server.registry.moves.service import MOVE
from modelshare.server.registry.storages import queries as storages
from modelshare.server.registry.tables import GarbageRow
from modelshare.server.settings import Settings
from modelshare.server.storage.base import DirectStore
from modelshare.server.storage_errors import OwnStorageError
from own_storage import objects
from served import wait_until
from storage_servers import S3Server
from uploading import PART, error_of, open_upload, pushed, stored_files, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
GRANT = 600


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True, "uploads_part_size": PART})


@pytest.fixture
def clock() -> Callable[[], float]:
    return Clock()


async def set_storage(server: S3Server, owner: Tenant, **fields: Any) -> None:
    spec = {
        "url": f"s3://{server.bucket}/{owner.project.id}",
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    answer = await owner.http.put("/v1/storage", json=spec | fields)
    assert answer.status_code == 200, answer.text


async def start(owner: Tenant, to: str, **fields: Any) -> list[dict[str, Any]]:
    answer = await owner.http.post("/v1/storage/moves", json={"to": to, **fields})
    assert answer.status_code == 202, answer.text
    return list(answer.json()["data"])


async def moved(owner: Tenant, to: str, **fields: Any) -> list[dict[str, Any]]:
    """The moves, once all have ended."""
    wanted = {each["id"] for each in await start(owner, to, **fields)}
    found: list[dict[str, Any]] = []

    async def ended() -> bool:
        listed = (await owner.http.get("/v1/storage/moves")).json()["data"]
        found[:] = [each for each in listed if each["id"] in wanted]
        return all(each["state"] != "moving" for each in found)

    await wait_until(ended)
    return found


async def contents(owner: Tenant, model: dict[str, Any], version: str = "1.0.0") -> tuple[dict[str, bytes], set[str]]:
    """The files as downloaded, and the origins of their URLs."""
    granted = (await owner.http.post(f"/v1/models/{model['id']}/versions/{version}/download")).json()
    files, origins = {}, set()
    async with httpx.AsyncClient() as http:
        for each in granted["files"]:
            origins.add(each["url"].partition("/blobs/")[0].partition("/models/")[0])
            client = owner.http if each["url"].startswith("http://modelshare.test") else http
            files[each["path"]] = (await client.get(each["url"])).content
    return files, origins


async def collected(app: Application, clock: Clock) -> None:
    """Garbage is gone after the time that running downloads have."""

    async def empty() -> bool:
        async with app.database.read() as session:
            return await session.scalar(select(GarbageRow.id).limit(1)) is None

    await pass_time(app, clock, GRANT + 3600)
    await wait_until(empty)


async def pass_time(app: Application, clock: Clock, seconds: int) -> None:
    clock.now += seconds
    async with app.database.write() as session:
        for kind in (COLLECT, MOVE):
            notify(session, jobs.TOPIC, kind)


async def own_store(app: Application, owner: Tenant) -> DirectStore:
    async with app.database.read() as session:
        current = await storages.current_id(session, owner.project.id)
    store = await app.platform.stores.get(current)
    assert store.direct
    return store


@pytest.fixture
async def held(
    app: Application, server: S3Server, owner: Tenant, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Any]]:
    """A model that is being moved to the bucket, held at its first part until `go_on` is set."""
    model = await pushed(owner.http, tiny_model())
    await set_storage(server, owner)
    store = await own_store(app, owner)
    put, arrived, go_on = store.put_part, asyncio.Event(), asyncio.Event()

    async def wait(upload: Any, number: int, content: bytes) -> Any:
        arrived.set()
        await go_on.wait()
        return await put(upload, number, content)

    monkeypatch.setattr(store, "put_part", wait)
    [move] = await start(owner, "own")
    await arrived.wait()
    yield {"model": model, "move": move, "go_on": go_on}
    go_on.set()


async def test_there_and_back_again_while_old_urls_go_on(
    app: Application, clock: Clock, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    files = tiny_model(pad=copying.PART + 5)
    model = await pushed(owner.http, files)
    before = (await owner.http.post(f"/v1/models/{model['id']}/versions/1.0.0/download")).json()["files"]
    sizes = sorted(map(len, files.values()))
    await set_storage(server, owner)
    [move] = await moved(owner, "own", model="tiny")
    assert (move["state"], move["reason"], move["name"], move["version"]) == ("done", None, "tiny", "1.0.0")
    assert move["bytes_done"] == move["bytes_total"] == sum(sizes)
    assert objects(bucket) == sizes
    assert await contents(owner, model) == (files, {server.endpoint})
    async with app.database.read() as session:
        assert await blobs.stored_bytes(session, owner.project.id) == 0
    for each in before:
        assert (await owner.http.get(each["url"])).content == files[each["path"]], "an old URL is still valid"
    await collected(app, clock)
    assert stored_files(app) == []
    assert await start(owner, "own") == [], "everything is there"

    [back] = await moved(owner, "platform", model=model["id"], version="1.0.0")
    assert (back["state"], back["to"]) == ("done", "platform")
    assert stored_files(app) == sizes
    assert await contents(owner, model) == (files, {"http://modelshare.test"})
    await collected(app, clock)
    assert objects(bucket) == []
    actions = [each["action"] for each in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("model.move") == actions.count("model.moved") == 2


async def test_a_relayed_storage_and_versions_that_share_files(
    app: Application, clock: Clock, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    one, other = tiny_model(pad=100), tiny_model(seed=1, pad=100) | {"empty": b""}
    model = await pushed(owner.http, one)
    await pushed(owner.http, other)
    another = await pushed(owner.http, tiny_model(seed=2), "another")
    await set_storage(server, owner, relayed=True)
    [move] = await moved(owner, "own", model="tiny", version="1.0.0")
    assert move["state"] == "done"
    assert (await contents(owner, model, "1.0.1"))[0] == other, "the other version keeps what they share"
    both = await moved(owner, "own")
    assert {(each["name"], each["version"], each["state"]) for each in both} == {
        ("tiny", "1.0.1", "done"),
        ("another", "1.0.0", "done"),
    }
    assert (await contents(owner, model))[0] == one
    assert (await contents(owner, model, "1.0.1"))[0] == other
    assert (await contents(owner, another))[0] == tiny_model(seed=2)
    await collected(app, clock)
    assert stored_files(app) == []
    assert (await contents(owner, model))[0] == one
    assert len(objects(bucket)) == len({*one.values(), *other.values(), *tiny_model(seed=2).values()})


async def test_a_move_resumes_with_the_parts_that_are_there(
    app: Application, clock: Clock, server: S3Server, owner: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PART", PART)
    files = tiny_model(pad=3 * PART)
    model = await pushed(owner.http, files)
    await set_storage(server, owner)
    sent: list[int] = []
    storage = await own_store(app, owner)
    put, failures = storage.put_part, [2]

    async def failing(upload: Any, number: int, content: bytes) -> Any:
        if upload.size > PART:
            if number in failures:
                failures.remove(number)
                raise OwnStorageError("Your storage is not responding.")
            sent.append(number)
        return await put(upload, number, content)

    monkeypatch.setattr(storage, "put_part", failing)
    await start(owner, "own")

    async def is_waiting() -> bool:
        return bool((await listed(owner))[0]["reason"] == "Waiting: Your storage is not responding.")

    await wait_until(is_waiting)
    assert (await listed(owner))[0]["state"] == "moving"
    await idle(app)
    await pass_time(app, clock, 60)

    async def done() -> bool:
        [move] = await listed(owner)
        return (move["state"], move["reason"]) == ("done", None)

    await wait_until(done)
    assert sent == [0, 1, 2, 3], "each part once"
    assert (await contents(owner, model))[0] == files


ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)


async def listed(owner: Tenant) -> list[dict[str, Any]]:
    return list((await owner.http.get("/v1/storage/moves")).json()["data"])


@ON_SQLITE
async def test_a_move_in_progress_is_found_again_and_excludes_others(owner: Tenant, held: dict[str, Any]) -> None:
    assert await start(owner, "own", model="tiny") == [held["move"]]
    assert (await contents(owner, held["model"]))[0] == tiny_model()
    assert (await owner.http.delete("/v1/storage")).status_code == 204
    assert "Set one first" in error_of(await owner.http.post("/v1/storage/moves", json={"to": "own"}), 409)
    assert await start(owner, "platform") == []
    held["go_on"].set()

    async def done() -> bool:
        return bool((await listed(owner))[0]["state"] == "done")

    await wait_until(done)
    assert (await contents(owner, held["model"]))[0] == tiny_model(), "also in a storage that was replaced meanwhile"


@ON_SQLITE
async def test_a_cancelled_move_leaves_nothing_behind(
    app: Application, clock: Clock, owner: Tenant, bucket: Path, held: dict[str, Any]
) -> None:
    path = f"/v1/storage/moves/{held['move']['id']}"
    for _ in range(2):
        answer = await owner.http.delete(path)
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    held["go_on"].set()
    await idle(app)
    await collected(app, clock)
    assert objects(bucket) == []
    assert await contents(owner, held["model"]) == (tiny_model(), {"http://modelshare.test"})
    [again] = await moved(owner, "own")
    assert again["state"] == "done"
    assert "done already" in error_of(await owner.http.delete(f"/v1/storage/moves/{again['id']}"), 409)


@ON_SQLITE
async def test_a_move_ends_with_its_version(
    app: Application, clock: Clock, owner: Tenant, bucket: Path, held: dict[str, Any]
) -> None:
    assert (await owner.http.delete(f"/v1/models/{held['model']['id']}")).status_code == 204
    held["go_on"].set()

    async def ended() -> bool:
        return bool((await listed(owner))[0]["state"] != "moving")

    await wait_until(ended)
    [move] = await listed(owner)
    assert (move["state"], move["reason"]) == ("cancelled", "The version was deleted.")
    await collected(app, clock)
    assert objects(bucket) == []
    assert stored_files(app) == []


@ON_SQLITE
async def test_bytes_that_are_wrong_are_not_moved(
    app: Application, clock: Clock, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    model = await pushed(owner.http, tiny_model())
    await set_storage(server, owner)
    [weights] = [
        path
        for path in (app.settings.data_dir / "storage" / "blobs").rglob("*")
        if path.is_file() and path.stat().st_size == len(tiny_model()["model.safetensors"])
    ]
    weights.chmod(0o600)
    weights.write_bytes(tiny_model(seed=9)["model.safetensors"])
    [move] = await moved(owner, "own")
    assert move["state"] == "failed"
    assert "model.safetensors no longer match their digest, so nothing was moved" in move["reason"]
    await collected(app, clock)  # rclone fails to write where it deletes at the same moment
    weights.unlink()
    [move] = await moved(owner, "own")
    assert "missing in storage" in move["reason"]
    await collected(app, clock)
    assert objects(bucket) == []
    assert (await owner.http.get(f"/v1/models/{model['id']}")).json()["status"] == "ready"


@ON_SQLITE
async def test_the_platforms_quota_holds(server: S3Server, owner: Tenant, operator: httpx.AsyncClient) -> None:
    await pushed(owner.http, tiny_model())
    await set_storage(server, owner)
    [move] = await moved(owner, "own")
    assert move["state"] == "done"
    limited = await operator.patch(f"/v1/platform/projects/{owner.project.id}", json={"quota_bytes": 100})
    assert limited.status_code == 200
    refused = error_of(await owner.http.post("/v1/storage/moves", json={"to": "platform"}), 403)
    assert refused.startswith("Moving this to the platform needs")


@ON_SQLITE
async def test_bad_requests_and_other_tenants(
    server: S3Server, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, held: dict[str, Any]
) -> None:
    path = f"/v1/storage/moves/{held['move']['id']}"
    for http, status in ((deployer.http, 404), (anonymous, 401)):
        assert (await http.delete(path)).status_code == status
        body = {"to": "platform", "model": held["model"]["id"]}
        assert (await http.post("/v1/storage/moves", json=body)).status_code == status
    assert (await deployer.http.get("/v1/storage/moves")).json()["data"] == []
    assert (await anonymous.get("/v1/storage/moves")).status_code == 401
    for body, status in (
        ({"to": "elsewhere"}, 400),
        ({"to": "own", "version": "1.0.0"}, 400),
        ({"to": "own", "model": "nothing"}, 404),
        ({"to": "own", "model": "tiny", "version": "9.9.9"}, 404),
    ):
        assert (await owner.http.post("/v1/storage/moves", json=body)).status_code == status, body
    upload = await open_upload(owner.http, tiny_model(seed=5))
    body = {"to": "own", "model": "tiny", "version": upload["version"]}
    assert "uploading" in error_of(await owner.http.post("/v1/storage/moves", json=body), 409)
    assert (await owner.http.delete("/v1/storage/moves/nothing")).status_code == 404


async def idle(app: Application) -> None:
    """No move is being worked on."""

    async def no_job() -> bool:
        is_running = jobs.JobRow.kind == MOVE, jobs.JobRow.lease_token.is_not(None)
        async with app.database.read() as session:
            return await session.scalar(select(jobs.JobRow).where(*is_running)) is None

    await wait_until(no_job)
