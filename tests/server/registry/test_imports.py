"""`/v1/imports`: models come from another platform, by its Hugging Face form and its OCI form."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select
from starlette.responses import Response

from conftest import Tenant
from model_sources import Hub, serving_hub
from modelshare.server.app import Application
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.tables import UploadRow
from modelshare.server.settings import Settings
from own_storage import objects, set_storage
from served import serving, wait_until
from storage_servers import S3Server
from uploading import PART, Files, error_of, pushed, stored_files, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    allowed = {"import_allow_private": True, "storage_allow_private": True, "uploads_part_size": PART}
    return settings.model_copy(update=allowed)


@pytest.fixture
async def url(app: Application) -> AsyncIterator[str]:
    async with serving(app) as found:
        yield found


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with serving_hub(Hub(tiny_model(pad=2 * PART))) as found:
        yield found


async def start(tenant: Tenant, source: str, **fields: Any) -> dict[str, Any]:
    answer = await tenant.http.post("/v1/imports", json={"source": source, **fields})
    assert answer.status_code in {200, 201}, answer.text
    return dict(answer.json())


async def ended(tenant: Tenant, started: dict[str, Any]) -> dict[str, Any]:
    """The import, once it has ended."""

    async def found() -> dict[str, Any] | None:
        shown = (await tenant.http.get(f"/v1/imports/{started['id']}")).json()
        return dict(shown) if shown["state"] not in {"importing", "processing"} else None

    return await wait_until(found)


async def imported(tenant: Tenant, source: str, **fields: Any) -> dict[str, Any]:
    return await ended(tenant, await start(tenant, source, **fields))


async def manifest_of(tenant: Tenant, found: dict[str, Any]) -> dict[str, Any]:
    answer = await tenant.http.get(f"/v1/models/{found['model']}/versions/{found['version']}/manifest")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def digests(files: Files) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


async def test_a_model_of_another_platform_in_its_hugging_face_form(
    app: Application, url: str, owner: Tenant, deployer: Tenant
) -> None:
    files = {**tiny_model(pad=100_000), "tokenizer/vocab file.txt": b"a\nb\n"}
    await pushed(owner.http, files, version="2.0.0")
    asked = {"endpoint": f"{url}/hf", "token": owner.project.api_key}
    found = await imported(deployer, "hf:acme/tiny@2.0.0", **asked)
    assert (found["state"], found["reason"], found["name"], found["is_new"]) == ("ready", None, "tiny", True)
    manifest = await manifest_of(deployer, found)
    assert {each["path"]: each["sha256"] for each in manifest["files"]} == digests(files)
    assert manifest["license"] == "apache-2.0"
    source = {"kind": "hf", "ref": "hf:acme/tiny@2.0.0", "commit": found["commit"], "endpoint": f"{url}/hf"}
    assert manifest["facts"]["source"] == source
    model = (await deployer.http.get(f"/v1/models/{found['model']}")).json()
    assert "A tiny model for tests." in model["card"]
    versions = (await deployer.http.get(f"/v1/models/{found['model']}/versions")).json()["data"]
    assert [each["source"] for each in versions] == [source]
    async with app.database.read() as session:
        assert (await session.scalars(select(ImportRow.token))).all() == [None]
    again = await imported(deployer, "hf:acme/tiny", **asked)
    assert (again["is_new"], again["version"]) == (False, found["version"])
    await pushed(owner.http, {**files, "README.md": b"new\n"}, version="2.1.0")
    updated = await imported(deployer, "hf:acme/tiny", **asked)
    assert (updated["state"], updated["is_new"], updated["version"]) == ("ready", True, "1.0.1")


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
async def test_a_model_of_another_platform_in_its_oci_form(url: str, owner: Tenant, deployer: Tenant) -> None:
    files = tiny_model(pad=100_000)
    await pushed(owner.http, files)
    host, token = url.removeprefix("http://"), owner.project.api_key
    found = await imported(deployer, f"oci:{host}/acme/tiny:1.0.0", token=token, name="copy")
    assert (found["state"], found["reason"]) == ("ready", None)
    manifest = await manifest_of(deployer, found)
    assert {each["path"]: each["sha256"] for each in manifest["files"]} == digests(files)
    ref = f"oci:{host}/acme/tiny:1.0.0"
    assert manifest["facts"]["source"] == {"kind": "oci", "ref": ref, "commit": found["commit"]}
    assert found["commit"].startswith("sha256:")
    bom = (await deployer.http.get(f"/v1/models/{found['model']}/versions/1.0.0/bom")).json()
    source = {"name": "modelshare:source", "value": f"{ref}, {found['commit']}"}
    assert source in bom["metadata"]["component"]["properties"]
    by_digest = await imported(deployer, f"oci:{host}/acme/tiny@{found['commit']}", token=token, name="copy")
    assert (by_digest["is_new"], by_digest["version"]) == (False, "1.0.0")
    refused = await imported(deployer, f"oci:{host}/acme/tiny:latest", token="wrong")
    assert refused["state"] == "failed"
    assert "does not show it with this token" in refused["reason"]
    absent = await imported(deployer, f"oci:{host}/acme/tiny:9.9.9", token=token)
    assert f"`{host}` has no `acme/tiny:9.9.9`" in absent["reason"]


@ON_SQLITE
async def test_into_a_bucket_of_the_projects_own(hub: Hub, server: S3Server, owner: Tenant, bucket: Any) -> None:
    await set_storage(server, owner)
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url)
    assert (found["state"], found["reason"]) == ("ready", None)
    assert objects(bucket) == sorted(map(len, hub.files.values()))


@ON_SQLITE
async def test_who_may_and_what_is_no_source(hub: Hub, app: Application, owner: Tenant, deployer: Tenant) -> None:
    for source in ("tiny", "hf:tiny", "hf:a/b/c", "hf:../x", "oci:host", "oci:host/UPPER:x", "s3://b/x", "hf:a/b@", ""):
        answer = await owner.http.post("/v1/imports", json={"source": source})
        assert "hf:ORG/NAME" in error_of(answer, 400)
    for endpoint in ("ftp://x", "https://u:p@h", "https://h?q=1", "https://h#f", "nothing"):
        answer = await owner.http.post("/v1/imports", json={"source": "hf:a/b", "endpoint": endpoint})
        error_of(answer, 400)
    error_of(await owner.http.post("/v1/imports", json={"source": "hf:a/b", "token": "two words"}), 400)
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url)
    error_of(await deployer.http.get(f"/v1/imports/{found['id']}"), 404)
    error_of(await deployer.http.post(f"/v1/imports/{found['id']}/cancel"), 404)
    assert (await deployer.http.get("/v1/imports")).json()["data"] == []
    assert [each["id"] for each in (await owner.http.get("/v1/imports")).json()["data"]] == [found["id"]]
    error_of(await owner.http.post(f"/v1/imports/{found['id']}/cancel"), 409)


@ON_SQLITE
async def test_the_operator_can_turn_it_off(app: Application, owner: Tenant) -> None:
    off = app.settings.model_copy(update={"import_enabled": False})
    object.__setattr__(app.platform, "settings", off)
    answer = await owner.http.post("/v1/imports", json={"source": "hf:a/b"})
    assert "does not import" in error_of(answer, 403)


@ON_SQLITE
async def test_cancelled_while_it_waits(hub: Hub, app: Application, owner: Tenant) -> None:
    busy = Response(status_code=429, headers={"Retry-After": "600"})
    hub.answer = lambda request: busy if "/resolve/" in request.url.path else None
    started = await start(owner, "hf:acme/tiny", endpoint=hub.url)

    async def waits() -> bool:
        shown = (await owner.http.get(f"/v1/imports/{started['id']}")).json()
        return "answered 429" in (shown["reason"] or "")

    await wait_until(waits)
    assert (await owner.http.post(f"/v1/imports/{started['id']}/cancel")).json()["state"] == "cancelled"

    async def gone() -> bool:
        async with app.database.read() as session:
            states = (await session.scalars(select(UploadRow.state))).all()
        return states == ["cancelled"] and stored_files(app) == []

    await wait_until(gone)
    assert (await owner.http.get("/v1/models")).json()["data"] == []
    assert (await owner.http.post(f"/v1/imports/{started['id']}/cancel")).json()["state"] == "cancelled"
