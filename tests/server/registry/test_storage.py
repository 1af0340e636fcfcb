"""`/v1/storage`: a project's models in a bucket of its own, over a real S3 server."""

import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.registry import queries as models
from modelshare.server.registry import service as registry
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.storages.stores import download_url
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.settings import Settings
from own_storage import objects, set_storage, spec
from served import wait_until
from storage_servers import S3Server, s3_server
from uploading import PART, error_of, missing, open_upload, processed, send, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
BASE = "http://modelshare.test"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True, "uploads_part_size": PART})


async def send_direct(owner: Tenant, upload: dict[str, Any], files: dict[str, bytes]) -> None:
    async with httpx.AsyncClient() as http:
        for n, k, data in list(missing(upload, files)):
            signed = (await owner.http.post(f"/v1/uploads/{upload['id']}/files/{n}/parts/{k}/url")).json()
            assert (await http.put(signed["url"], content=data, headers=signed["headers"])).status_code == 200


async def pushed(owner: Tenant, files: dict[str, bytes], name: str = "tiny") -> dict[str, Any]:
    upload = await open_upload(owner.http, files, name)
    await (send_direct(owner, upload, files) if upload["direct"] else send(owner.http, upload, files))
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert answer.status_code == 200, answer.text
    return await processed(owner.http, upload)


async def urls(app: Application, model: dict[str, Any]) -> dict[str, str]:
    """What an agent's grant would have, by path."""
    async with app.database.read() as session:
        found = await models.any_model(session, uuid.UUID(model["id"]))
        assert found is not None
        files = await registry.stored_files(session, found.versions[-1].id)
    expires_at = app.platform.now() + 60
    return {each.path: await download_url(app.platform, each, expires_at=expires_at, base_url=BASE) for each in files}


async def test_a_project_without_its_own(owner: Tenant) -> None:
    answer = (await owner.http.get("/v1/storage")).json()
    assert (answer["kind"], answer["url"], answer["is_working"]) == ("platform", None, None)
    assert owner.project.id in answer["external_id"]
    assert "platform's storage" in error_of(await owner.http.post("/v1/storage/check"), 409)
    assert (await owner.http.delete("/v1/storage")).status_code == 204


async def test_pushes_go_to_the_bucket_and_pulls_come_from_it(
    app: Application, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    stored = await set_storage(server, owner)
    assert (stored["kind"], stored["is_working"], stored["relayed"]) == ("bucket", True, False)
    assert stored["access_key"] == f"…{server.access_key[-4:]}"
    assert objects(bucket) == [], "the check leaves nothing behind"
    files = tiny_model(pad=PART)
    model = await pushed(owner, files)
    assert model["status"] == "ready"
    assert objects(bucket) == sorted(map(len, files.values()))
    links = await urls(app, model)
    async with httpx.AsyncClient() as http:
        for path, content in files.items():
            assert links[path].startswith(server.endpoint)
            answer = await http.get(links[path], headers={"Range": "bytes=3-9"})
            assert answer.content == content[3:10]
    async with app.database.read() as session:
        assert await blobs.stored_bytes(session, owner.project.id) == 0, "the platform's quota does not count them"


async def test_an_upload_finishes_where_it_began(server: S3Server, owner: Tenant, bucket: Path) -> None:
    files = tiny_model(pad=PART)
    before = await open_upload(owner.http, files, "before")
    assert before["direct"] is False
    await set_storage(server, owner)
    inside = await open_upload(owner.http, files, "inside")
    assert inside["direct"] is True
    assert (await owner.http.delete("/v1/storage")).status_code == 204
    again = await open_upload(owner.http, files, "inside")
    assert (again["id"], again["direct"]) == (inside["id"], True)
    await send(owner.http, before, files)
    await send_direct(owner, inside, files)
    for upload in (before, inside):
        assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
        assert (await processed(owner.http, upload))["status"] == "ready"
    assert objects(bucket) == sorted(map(len, files.values()))
    assert (await open_upload(owner.http, files, "after"))["direct"] is False


async def test_a_storage_that_nothing_uses_any_more_is_forgotten_with_its_keys(
    app: Application, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    await set_storage(server, owner)
    model = await pushed(owner, tiny_model())
    await owner.http.delete("/v1/storage")
    assert await rows(app) == 1, "its model is still there"
    assert (await owner.http.delete(f"/v1/models/{model['id']}", params={"bytes": "delete"})).status_code == 204

    async def is_forgotten() -> bool | None:
        return (await rows(app) == 0 and objects(bucket) == []) or None

    await wait_until(is_forgotten)


async def rows(app: Application) -> int:
    async with app.database.read() as session:
        return len(list(await session.scalars(select(StorageRow))))


async def test_keys_are_kept_only_for_the_same_place(server: S3Server, owner: Tenant) -> None:
    await set_storage(server, owner)
    same = {"url": f"s3://{server.bucket}/{owner.project.id}", "endpoint": server.endpoint}
    assert (await owner.http.put("/v1/storage", json=same | {"region": "eu-west-1"})).status_code == 200
    for changed in ({"url": f"s3://{server.bucket}/elsewhere"}, {"endpoint": "http://127.0.0.1:9"}, {"endpoint": None}):
        assert "Send `access_key_id`" in error_of(await owner.http.put("/v1/storage", json=same | changed), 400)


async def test_nobody_else_sees_or_changes_it(server: S3Server, owner: Tenant, deployer: Tenant) -> None:
    await set_storage(server, owner)
    assert (await deployer.http.get("/v1/storage")).json()["kind"] == "platform"
    await deployer.http.delete("/v1/storage")
    assert (await owner.http.get("/v1/storage")).json()["kind"] == "bucket"
    path = f"/{owner.project.id}/v1/storage"
    assert (await deployer.http.get(path)).status_code == 404
    actions = [each["action"] for each in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("storage.set") == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "https://x/y"}, "s3://BUCKET/PREFIX"),
        ({"url": "s3://models/../x"}, "s3://BUCKET/PREFIX"),
        ({"endpoint": "ftp://s3.example.org"}, "https://"),
        ({"endpoint": "https://user@s3.example.org"}, "without user"),
        ({"region": "eu/../west"}, "region"),
        ({"role_arn": "arn:aws:iam::123456789012:role/x"}, "not both"),
        ({"secret_access_key": None}, "together"),
    ],
)
async def test_what_cannot_be_a_storage(server: S3Server, owner: Tenant, fields: dict[str, Any], words: str) -> None:
    answer = await owner.http.put("/v1/storage", json=spec(server, owner, **fields))
    assert words in error_of(answer, 400)
    assert server.secret_key not in answer.text


async def test_a_check_that_fails_changes_nothing(server: S3Server, owner: Tenant) -> None:
    answer = await owner.http.put("/v1/storage", json=spec(server, owner, secret_access_key="wrong-secret-of-somebody"))
    assert "failed at `list`" in error_of(answer, 400)
    assert answer.json()["error"]["code"] == "storage_check_failed"
    answer = await owner.http.put("/v1/storage", json=spec(server, owner, url="s3://no-such-bucket/x"))
    assert "There is no bucket" in error_of(answer, 400)
    assert (await owner.http.get("/v1/storage")).json()["kind"] == "platform"


async def test_relayed_everything_passes_through_the_platform(
    app: Application, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    stored = await set_storage(server, owner, relayed=True)
    assert stored["relayed"] is True
    files = tiny_model(pad=PART)
    upload = await open_upload(owner.http, files)
    assert upload["direct"] is False
    damaged = await owner.http.put(
        f"/v1/uploads/{upload['id']}/files/0/parts/0",
        content=b"!" * upload["files"][0]["size"],
        headers={"X-Checksum-SHA256": "0" * 64},
    )
    assert damaged.json()["error"]["code"] == "checksum_mismatch"
    model = await pushed(owner, files)
    assert model["status"] == "ready"
    assert objects(bucket) == sorted(map(len, files.values()))
    links = await urls(app, model)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        for path, content in files.items():
            assert links[path].startswith(f"{BASE}/blobs/")
            whole = await http.get(links[path])
            assert (whole.status_code, whole.content) == (200, content)
            part = await http.get(links[path], headers={"Range": "bytes=3-9"})
            assert (part.status_code, part.content) == (206, content[3:10])
            assert part.headers["content-range"] == f"bytes 3-9/{len(content)}"
            beyond = await http.get(links[path], headers={"Range": f"bytes={len(content)}-"})
            assert beyond.status_code == 416
            assert (await http.get(links[path][:-3] + "abc")).status_code == 403
            assert (await http.post(links[path])).status_code == 405


async def test_a_bucket_that_is_away_is_its_owners_and_a_push_resumes(
    tmp_path: Path, owner: Tenant, deployer: Tenant
) -> None:
    files = tiny_model(pad=PART)
    with s3_server(tmp_path / "away") as server:
        await set_storage(server, owner)
        upload = await open_upload(owner.http, files)
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/files/0/parts/0/url")
    assert f"Your storage s3://{server.bucket}/{owner.project.id} is not responding" in error_of(answer, 503)
    assert (await open_upload(deployer.http, files))["direct"] is False, "others go on"
    checked = (await owner.http.post("/v1/storage/check")).json()
    assert checked["is_working"] is False
    assert [step["state"] for step in checked["checks"][:2]] == ["ok", "failed"]
