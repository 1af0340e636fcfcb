"""`POST /v1/models/register`: a model is published where it lies, over a real S3 server."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from conftest import Tenant, client_of
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.errors import ConflictError
from modelshare.server.registry import queries as models
from modelshare.server.registry import service as registry
from modelshare.server.registry.storages.stores import download_url
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.settings import Settings
from served import serving, wait_until
from storage_servers import S3Server, s3_server
from unit.registry.samples import llama_gguf
from uploading import error_of, missing, open_upload, processed, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
FILES = tiny_model()
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("theirs") / "buckets") as server:
        yield server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True})


class Objects:
    """What lies below a prefix of the owner's bucket."""

    def __init__(self, server: S3Server, prefix: str) -> None:
        self._client = server.client()
        self._bucket = server.bucket
        self._prefix = f"{prefix}/"

    def put(self, files: Mapping[str, bytes]) -> None:
        for path, content in files.items():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=content)

    def delete(self, path: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path)

    def names(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        return [entry["Key"].removeprefix(self._prefix) for page in pages for entry in page.get("Contents", ())]


@pytest.fixture
def bucket(server: S3Server, owner: Tenant) -> Objects:
    """All that is the owner's."""
    return Objects(server, owner.project.id)


@pytest.fixture
def objects(server: S3Server, owner: Tenant) -> Objects:
    """The owner's model."""
    model = Objects(server, f"{owner.project.id}/llama")
    model.put(FILES)
    return model


def keys(server: S3Server) -> dict[str, str]:
    return {"endpoint": server.endpoint, "access_key_id": server.access_key, "secret_access_key": server.secret_key}


def source(server: S3Server, owner: Tenant, path: str = "llama") -> str:
    return f"s3://{server.bucket}/{owner.project.id}/{path}"


async def register(server: S3Server, owner: Tenant, **fields: Any) -> httpx.Response:
    body = {"source": source(server, owner), "name": "llama"} | fields
    return await owner.http.post("/v1/models/register", json=body)


async def registered(server: S3Server, owner: Tenant, **fields: Any) -> dict[str, Any]:
    """The model, with the keys of the request unless the fields say otherwise."""
    answer = await register(server, owner, **(keys(server) | fields))
    assert answer.status_code == 201, answer.text
    return await processed(owner.http, answer.json())


async def set_storage(server: S3Server, owner: Tenant) -> None:
    url = f"s3://{server.bucket}/{owner.project.id}"
    assert (await owner.http.put("/v1/storage", json={"url": url, **keys(server)})).status_code == 200


async def direct_push(owner: Tenant, files: dict[str, bytes]) -> dict[str, Any]:
    upload = await open_upload(owner.http, files, "pushed")
    async with httpx.AsyncClient() as http:
        for n, k, data in list(missing(upload, files)):
            signed = (await owner.http.post(f"/v1/uploads/{upload['id']}/files/{n}/parts/{k}/url")).json()
            assert (await http.put(signed["url"], content=data, headers=signed["headers"])).status_code == 200
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    return await processed(owner.http, upload)


@asynccontextmanager
async def deployed(app: Application, owner: Tenant, tenant: Tenant, model: dict[str, Any]) -> AsyncIterator[Any]:
    """A function that asks for a grant as the tenant's agent, and its link."""
    await owner.http.post(f"/v1/models/{model['id']}/share")
    async with serving(app) as url:
        _, token = await enroll(tenant.http)
        headers = {"Authorization": f"Bearer {token}"}
        async with linked(url, token) as link, httpx.AsyncClient(base_url=url, headers=headers) as http:
            spec = {"slug": "chat", "model": model["id"], "tier": "self_hosted"}
            assert (await tenant.http.post("/v1/endpoints", json=spec)).status_code == 201
            (wanted,) = await link.wanted(1)

            async def grant() -> httpx.Response:
                return await http.post(f"/v1/agent/deployments/{wanted.deployment_id}/grant")

            yield grant, link


async def version_of(owner: Tenant, model: dict[str, Any], version: str = "1.0.0") -> dict[str, Any]:
    page = (await owner.http.get(f"/v1/models/{model['id']}/versions")).json()
    return next(dict(each) for each in page["data"] if each["version"] == version)


async def test_it_is_pulled_from_where_it_lies_until_an_object_changes(
    app: Application, server: S3Server, owner: Tenant, deployer: Tenant, bucket: Objects, objects: Objects
) -> None:
    await set_storage(server, owner)
    answer = await register(server, owner)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["name"], found["version"], found["status"]) == ("llama", "1.0.0", "processing")
    assert (found["files"], found["bytes_total"]) == (len(FILES), sum(map(len, FILES.values())))
    model = await processed(owner.http, found)
    assert (model["status"], model["license"]) == ("ready", "apache-2.0"), model["status_reason"]
    assert bucket.names() == [f"llama/{path}" for path in sorted(FILES)], "nothing new"
    async with deployed(app, owner, deployer, model) as (grant, link), httpx.AsyncClient() as http:
        files = (await grant()).json()["files"]
        assert {file["path"]: file["sha256"] for file in files} == {
            path: hashlib.sha256(FILES[path]).hexdigest() for path in (file["path"] for file in files)
        }
        for file in files:
            assert file["url"].startswith(server.endpoint)
            assert (await http.get(file["url"])).content == FILES[file["path"]]
        await link.make_ready()

        async def is_active() -> bool:
            return bool((await deployer.http.get("/v1/endpoints/chat")).json()["status"] == "active")

        await wait_until(is_active)
        objects.put({WEIGHTS: tiny_model(seed=1)[WEIGHTS]})
        refused = await grant()
        assert "owner changed its files" in error_of(refused, 409)
        assert refused.json()["error"]["code"] == "files_changed"
        version = await version_of(owner, model)
        assert version["status"] == "failed"
        assert version["status_reason"].startswith(f"{WEIGHTS} was replaced after this version was published.")
        assert (await grant()).status_code == 404, "no endpoint wants it any more"
        assert await is_active(), "what runs goes on"
    entries = (await owner.http.get("/v1/audit")).json()["data"]
    failures = [entry for entry in entries if entry["action"] == "model.failed"]
    assert [entry["reason"] for entry in failures] == [version["status_reason"]], "said once"
    assert sum(entry["action"] == "grant.issue" for entry in entries) == 1, "a refused grant is none"


async def links(app: Application, owner: Tenant, model: dict[str, Any]) -> dict[str, str]:
    async with app.database.read() as session:
        found = await models.any_model(session, uuid.UUID(model["id"]))
        assert found is not None
        files = await registry.stored_files(session, found.versions[-1].id)
    expires_at = app.platform.now() + 60
    return {
        each.path: await download_url(app.platform, each, expires_at=expires_at, base_url=str(owner.http.base_url))
        for each in files
    }


@ON_SQLITE
@pytest.mark.parametrize("relayed", [False, True], ids=["direct", "relayed"])
async def test_keys_may_hold_any_characters(app: Application, server: S3Server, owner: Tenant, relayed: bool) -> None:
    odd = {"a b/é #1+%41 &c=d;~'x.txt": b"odd", "a+b/%2F/100%.txt": b"odder", "日本/x,y@z!(1).txt": b"oddest"}
    path = "mo dèl #2+%20"
    Objects(server, f"{owner.project.id}/{path}").put(FILES | odd)
    model = await registered(server, owner, source=source(server, owner, path), relayed=relayed)
    assert model["status"] == "ready", model["status_reason"]
    found = await links(app, owner, model)
    assert found.keys() == (FILES | odd).keys()
    transport = httpx.ASGITransport(app) if relayed else None
    async with httpx.AsyncClient(transport=transport) as http:
        for name, content in (FILES | odd).items():
            assert found[name].startswith(str(owner.http.base_url) if relayed else server.endpoint)
            answer = await http.get(found[name], headers={"Range": "bytes=1-"})
            assert answer.content == content[1:], name


@ON_SQLITE
async def test_the_same_files_are_the_same_version_and_changed_ones_the_next(
    server: S3Server, owner: Tenant, objects: Objects
) -> None:
    first = [await register(server, owner, **keys(server)) for _ in range(2)]
    assert [answer.status_code for answer in first] == [201, 200]
    model = await processed(owner.http, first[0].json())
    again = await register(server, owner)
    assert (again.status_code, again.json()["version"], again.json()["status"]) == (200, "1.0.0", "ready")
    objects.put({WEIGHTS: tiny_model(seed=1)[WEIGHTS]})
    both = await asyncio.gather(*(register(server, owner) for _ in range(2)))
    assert sorted(answer.status_code for answer in both) == [200, 201]
    assert {answer.json()["version"] for answer in both} == {"1.0.1"}
    assert (await processed(owner.http, both[0].json()))["version"] == "1.0.1"
    other = await registered(server, owner, name="other", version="7.0.0")
    assert (other["name"], other["version"], other["status"]) == ("other", "7.0.0", "ready")
    assert "already has a version 1.0.0" in error_of(await register(server, owner, version="1.0.0"), 409)
    assert model["id"] != other["id"]


@ON_SQLITE
async def test_deleting_it_leaves_the_objects_where_they_are(
    app: Application, server: S3Server, owner: Tenant, bucket: Objects, objects: Objects
) -> None:
    """What was pushed to the same bucket is deleted, which shows that deletion works."""
    await set_storage(server, owner)
    sent = await direct_push(owner, FILES)
    assert sent["status"] == "ready"
    # The very folder of the project's storage: nothing but the rows of the storages tells them apart.
    bucket.put(FILES)
    beside = {f"/{path.partition('/')[0]}/" for path in bucket.names() if "/" in path}
    model = await registered(server, owner, source=source(server, owner, "").rstrip("/"), exclude=sorted(beside))
    assert model["status"] == "ready", model["status_reason"]
    before = bucket.names()
    assert (await owner.http.delete(f"/v1/models/{model['id']}")).status_code in {200, 204}, "nothing to choose"
    assert (await owner.http.delete(f"/v1/models/{sent['id']}?bytes=delete")).status_code in {200, 204}

    async def is_collected() -> bool:
        async with app.database.read() as session:
            left = list(await session.scalars(select(StorageRow.writable)))
        return left == [True] and len(bucket.names()) == len(before) - len(FILES)

    await wait_until(is_collected)
    assert set(bucket.names()) == {*FILES, *(f"llama/{path}" for path in FILES)}


@ON_SQLITE
async def test_where_it_cannot_be_read_nothing_is_registered(server: S3Server, owner: Tenant, objects: Objects) -> None:
    given = keys(server)
    for fields, words in (
        ({"source": "https://x/y"}, "s3://BUCKET/PATH/TO/MODEL"),
        ({"source": "s3://models/a/../b"}, "s3://BUCKET/PATH/TO/MODEL"),
        ({"source": "s3://models/a//b"}, "s3://BUCKET/PATH/TO/MODEL"),
        ({"source": source(server, owner, "elsewhere")}, "Nothing lies at s3://"),
        ({"source": source(server, owner, "elsewhere.gguf")}, "Nothing lies at s3://"),
        ({"exclude": ["*.safetensors"]}, "There are no weights"),
        ({"file": "other.gguf"}, "is not among the files"),
        ({"endpoint": "ftp://x"}, "https://"),
        ({"version": "one"}, "version"),
        ({"access_key_id": None}, "together"),
        ({"access_key_id": None, "secret_access_key": None}, "your project has no storage at this endpoint"),
    ):
        answer = await register(server, owner, **(given | fields))
        assert words in error_of(answer, 400), answer.text
        assert server.secret_key not in answer.text
    wrong = await register(server, owner, **(given | {"secret_access_key": "somebody-elses-secret"}))
    assert "rejects the platform (SignatureDoesNotMatch)" in error_of(wrong, 503)
    gone = await register(server, owner, **(given | {"source": "s3://no-such-bucket/llama"}))
    assert "rejects the platform (NoSuchBucket)" in error_of(gone, 503)
    assert (await owner.http.get("/v1/models")).json()["data"] == []
    await set_storage(server, owner)
    elsewhere = await register(server, owner, endpoint="http://127.0.0.1:9")
    assert "your project has no storage at this endpoint" in error_of(elsewhere, 400), "keys go to their endpoint only"


@ON_SQLITE
async def test_a_key_that_may_only_publish_reaches_only_the_projects_storage(
    app: Application, server: S3Server, owner: Tenant, objects: Objects
) -> None:
    await set_storage(server, owner)
    Objects(server, "private").put(FILES)
    made = await owner.http.post("/v1/keys", json={"name": "ci", "scopes": ["models"]})
    assert made.status_code == 201, made.text
    async with client_of(app, made.json()["key"]) as http:
        ci = Tenant(owner.project, http)
        assert (await register(server, ci)).status_code == 201
        outside = {"source": f"s3://{server.bucket}/private"}
        for fields in (outside, keys(server), outside | keys(server)):
            assert (await register(server, ci, **fields)).status_code == 403
        assert (await register(server, owner, **outside, name="private")).status_code == 201
        assert (await register(server, ci, **outside, name="again")).status_code == 201, "an owner allowed this source"


@ON_SQLITE
async def test_what_a_push_leaves_out_is_left_out_and_said(server: S3Server, owner: Tenant, objects: Objects) -> None:
    beside = {".env": b"KEY=1", "runs/log.txt": b"-", "notes/a.txt": b"-", "notes/b.txt": b"-"}
    objects.put(beside | {".modelshareignore": b"notes/a.txt\n"})
    answer = (await register(server, owner, **keys(server), exclude=["README.md"])).json()
    for word in (".env (may hold a password or key)", "notes/a.txt (as you asked)", "README.md", "runs/"):
        assert word in answer["left_out"]
    model = await processed(owner.http, answer)
    assert model["status"] == "ready", model["status_reason"]
    assert any(".env" in warning for warning in model["warnings"])
    manifest = (await owner.http.get(f"/v1/models/{model['id']}/versions/1.0.0/manifest")).json()
    assert [file["path"] for file in manifest["files"]] == ["config.json", WEIGHTS, "notes/b.txt"]


@ON_SQLITE
async def test_one_file_of_a_folder(app: Application, server: S3Server, owner: Tenant, objects: Objects) -> None:
    objects.put({"Tiny.Q4_K_M.gguf": llama_gguf(), "other.gguf": b"something else"})
    model = await registered(server, owner, source=source(server, owner, "llama/Tiny.Q4_K_M.gguf"))
    assert (model["status"], model["format"]) == ("ready", "gguf"), model["status_reason"]
    assert list(await links(app, owner, model)) == ["Tiny.Q4_K_M.gguf"]


@ON_SQLITE
async def test_files_with_equal_bytes_change_each_by_itself(
    app: Application, server: S3Server, owner: Tenant, objects: Objects
) -> None:
    objects.put({"a.txt": b"same", "b.txt": b"same"})
    model = await registered(server, owner)
    assert (await links(app, owner, model)).keys() >= {"a.txt", "b.txt"}
    objects.delete("b.txt")
    with pytest.raises(ConflictError):
        await links(app, owner, model)
    reason = (await version_of(owner, model))["status_reason"]
    assert reason.startswith("b.txt is no longer there")
    objects.put({"b.txt": b"same"})
    assert (await owner.http.post(f"/v1/models/{model['id']}/revalidate")).status_code == 200
    assert (await processed(owner.http, {"model": model["id"], "version": "1.0.0"}))["status"] == "ready"
    assert (await links(app, owner, model)).keys() >= {"a.txt", "b.txt"}


@ON_SQLITE
async def test_other_bytes_are_not_restored(server: S3Server, owner: Tenant, objects: Objects) -> None:
    model = await registered(server, owner)
    objects.put({"README.md": b"another"})
    assert (await owner.http.post(f"/v1/models/{model['id']}/revalidate")).status_code == 200

    async def has_failed() -> bool:
        return bool((await version_of(owner, model))["status"] == "failed")

    await wait_until(has_failed)
    reason = (await version_of(owner, model))["status_reason"]
    assert reason.startswith("README.md is not what was published. Restore it there, or publish what is there as a new")


@ON_SQLITE
async def test_new_keys_of_the_projects_storage_are_used_in_place_as_well(
    app: Application, server: S3Server, owner: Tenant, objects: Objects
) -> None:
    await set_storage(server, owner)
    model = await processed(owner.http, (await register(server, owner)).json())
    await set_storage(server, owner)
    assert (await owner.http.delete("/v1/storage")).status_code == 204
    assert (await links(app, owner, model)).keys() == FILES.keys(), "also when the storage is forgotten"
    async with app.database.read() as session:
        (row,) = await session.scalars(select(StorageRow))
    assert (row.writable, row.revision, row.credentials_of) == (False, 2, None)
    assert row.credentials is not None
    assert server.secret_key not in row.credentials


@ON_SQLITE
async def test_moved_to_the_platform_it_needs_the_bucket_no_more(
    app: Application, server: S3Server, owner: Tenant, bucket: Objects, objects: Objects
) -> None:
    model = await registered(server, owner)
    answer = await owner.http.post("/v1/storage/moves", json={"to": "platform", "model": model["id"]})
    assert answer.status_code in {200, 201, 202}, answer.text

    async def is_moved() -> bool:
        async with app.database.read() as session:
            return not list(await session.scalars(select(StorageRow)))

    await wait_until(is_moved)
    assert bucket.names() == [f"llama/{path}" for path in sorted(FILES)], "the owner's objects stay"
    for path in FILES:
        objects.delete(path)
    found = await links(app, owner, model)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        for path, content in FILES.items():
            assert (await http.get(found[path])).content == content
