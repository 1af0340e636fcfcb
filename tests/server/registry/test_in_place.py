"""`POST /v1/models/register`: a model is published where it lies, over a real S3 server."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Tenant
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from served import serving, wait_until
from storage_servers import S3Server, s3_server
from uploading import error_of, processed, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
FILES = tiny_model()
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("theirs") / "buckets"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[S3Server]:
    with s3_server(folder) as server:
        yield server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True})


@pytest.fixture
def objects(server: S3Server, folder: Path, owner: Tenant) -> Path:
    """The folder of the owner's model, where the server keeps its objects."""
    place = folder / server.bucket / owner.project.id / "llama"
    put(place, FILES)
    return place


def put(place: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)


def keys(server: S3Server) -> dict[str, str]:
    return {
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }


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
    app: Application, server: S3Server, owner: Tenant, deployer: Tenant, objects: Path
) -> None:
    await set_storage(server, owner)
    answer = await register(server, owner)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["name"], found["version"], found["status"]) == ("llama", "1.0.0", "processing")
    assert (found["files"], found["bytes_total"]) == (len(FILES), sum(map(len, FILES.values())))
    model = await processed(owner.http, found)
    assert (model["status"], model["license"]) == ("ready", "apache-2.0"), model["status_reason"]
    assert sorted(path.name for path in objects.parent.rglob("*") if path.is_file()) == sorted(FILES), "nothing new"
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
        put(objects, {WEIGHTS: tiny_model(seed=1)[WEIGHTS]})
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
