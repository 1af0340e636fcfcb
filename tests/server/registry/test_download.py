"""`POST /v1/models/{id}/versions/{version}/download`: a version's files for its owner."""

import httpx
import pytest

from answers import ANONYMOUS, problem
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from uploading import pushed, sha256, tiny_model

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("running_app")
async def test_the_urls_give_the_files(owner: Tenant) -> None:
    files = tiny_model()
    model = await pushed(owner.http, files)
    answer = await owner.http.post(f"/v1/models/{model['id']}/versions/1.0.0/download")
    found = answer.json()
    assert (found["version"], found["manifest_digest"]) == ("1.0.0", model["manifest_digest"])
    assert {each["path"]: each["sha256"] for each in found["files"]} == {
        path: sha256(data) for path, data in files.items()
    }
    for each in found["files"]:
        assert (await owner.http.get(each["url"])).content == files[each["path"]]
    [entry] = (await owner.http.get("/v1/audit", params={"action": "model.download"})).json()["data"]
    assert (entry["details"]["version"], entry["details"]["name"]) == ("1.0.0", "tiny")


async def test_only_the_owner_and_only_ready_versions(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    await add_version(app, model, "2.0.0", status="failed")
    path = f"/v1/models/{model}/versions"
    assert problem(await deployer.http.post(f"{path}/1.0.0/download")) == (404, "not_found_error", "model_not_found")
    assert problem(await anonymous.post(f"{path}/1.0.0/download")) == ANONYMOUS
    assert (await owner.http.post(f"{path}/9.0.0/download")).status_code == 404
    assert (await owner.http.post(f"{path}/2.0.0/download")).status_code == 409
