"""Deleting what is in the project's own storage: the owner says whether its bytes are kept there."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from answers import problem
from changing_folders import contents_of
from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.registry.tables import BlobRow
from modelshare.server.settings import Settings
from served import wait_until
from storage_servers import S3Server
from uploading import pushed, sha256, stored_files, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
ON_SQLITE = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True})


@pytest.fixture
async def url(server: S3Server, owner: Tenant) -> str:
    """The owner's storage. It is relayed, so that the server itself takes the parts of a push."""
    url = f"s3://{server.bucket}/{owner.project.id}"
    keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    spec = {"url": url, "endpoint": server.endpoint, "relayed": True, **keys}
    assert (await owner.http.put("/v1/storage", json=spec)).status_code == 200
    return url


def contents(folder: Path, server: S3Server, owner: Tenant) -> dict[str, bytes]:
    """The objects by their key."""
    return contents_of(folder / server.bucket / owner.project.id)


async def test_kept_bytes_stay_and_are_listed(
    app: Application, server: S3Server, folder: Path, owner: Tenant, url: str
) -> None:
    model = await pushed(owner.http, tiny_model())
    path = f"/v1/models/{model['id']}"
    refused = await owner.http.delete(path)
    assert problem(refused)[0] == 400
    assert (refused.json()["error"]["param"], url in refused.json()["error"]["message"]) == ("bytes", True)
    assert (await owner.http.delete(path, params={"bytes": "maybe"})).status_code == 400
    answer = await owner.http.delete(path, params={"bytes": "keep"})
    assert answer.status_code == 200
    kept = answer.json()["kept"]
    assert {(each["version"], each["path"], each["sha256"]) for each in kept} == {
        ("1.0.0", path, sha256(data)) for path, data in tiny_model().items()
    }
    assert (await owner.http.get(path)).status_code == 404
    assert (await owner.http.delete("/v1/storage")).status_code == 204

    async def is_forgotten() -> bool:
        async with app.database.read() as session:
            return await session.scalar(select(StorageRow.id)) is None

    await wait_until(is_forgotten)
    there = contents(folder, server, owner)
    assert {f"{url}/{key}": data for key, data in there.items()} == {
        each["url"]: tiny_model()[each["path"]] for each in kept
    }
    async with app.database.read() as session:
        assert await session.scalar(select(BlobRow.key)) is None


@ON_SQLITE
async def test_a_version_is_asked_for_what_only_it_has(
    app: Application, server: S3Server, folder: Path, owner: Tenant, url: str
) -> None:
    model = await pushed(owner.http, tiny_model())
    await pushed(owner.http, tiny_model(seed=1))
    path = f"/v1/models/{model['id']}/versions/1.0.0"
    preview = (await owner.http.delete(path, params={"dry_run": "true"})).json()
    assert preview["own_storages"] == [url]
    assert (await owner.http.delete(path)).json()["error"]["param"] == "bytes"
    kept = (await owner.http.delete(path, params={"bytes": "keep"})).json()["kept"]
    assert [each["path"] for each in kept] == ["model.safetensors"]
    assert len(contents(folder, server, owner)) == 4
    assert (await owner.http.delete(f"/v1/models/{model['id']}", params={"bytes": "delete"})).status_code == 204

    async def only_the_kept() -> bool:
        return [*contents(folder, server, owner).values()] == [tiny_model()["model.safetensors"]]

    await wait_until(only_the_kept)


@ON_SQLITE
async def test_on_the_platform_nothing_is_asked(app: Application, owner: Tenant, operator: httpx.AsyncClient) -> None:
    for query, status in (({}, 204), ({"bytes": "delete"}, 204), ({"bytes": "keep"}, 200)):
        model: dict[str, Any] = await pushed(owner.http, tiny_model())
        answer = await owner.http.delete(f"/v1/models/{model['id']}", params=query)
        assert answer.status_code == status
        assert not answer.content or answer.json()["kept"] == []

        async def is_empty() -> bool:
            return stored_files(app) == []

        await wait_until(is_empty)
