"""`owner/name` wherever a model's id is taken; names alone for one's own; and names that differ in case only."""

import asyncio
import uuid

import httpx
import pytest

from answers import message, problem
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from modelshare.server.model_paths import joined
from uploading import error_of, open_upload, opening, tiny_model

pytestmark = pytest.mark.anyio
NAMES = ["acme/tiny", "acme%2Ftiny", "acme%2ftiny", "tiny", "TINY", "acme/Tiny", "ACME/tiny"]
BELOW = frozenset({"versions", "share", "feature"})


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/v1/models/acme/tiny", "/v1/models/acme%2Ftiny"),
        ("/v1/models/acme%2Ftiny", "/v1/models/acme%2Ftiny"),
        ("/v1/models/acme/tiny/versions/1.0.0/promote", "/v1/models/acme%2Ftiny/versions/1.0.0/promote"),
        ("/v1/models/acme%2ftiny/share", "/v1/models/acme%2Ftiny/share"),
        ("/v1/models/acme%2Fversions/share", "/v1/models/acme%2Fversions/share"),
        ("/v1/models/tiny/versions", "/v1/models/tiny/versions"),
        ("/v1/models/tiny", "/v1/models/tiny"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models/"),
        ("/v1/models//x", "/v1/models//x"),
        ("/v1/catalog/models/acme/tiny", "/v1/catalog/models/acme%2Ftiny"),
        ("/v1/platform/catalog/acme/tiny/feature", "/v1/platform/catalog/acme%2Ftiny/feature"),
        ("/v1/platform/catalog/tiny/feature", "/v1/platform/catalog/tiny/feature"),
        ("/v1/endpoints/a/b", "/v1/endpoints/a/b"),
    ],
)
def test_joined(raw: str, path: str) -> None:
    decoded = raw.replace("%2F", "/").replace("%2f", "/")
    assert joined(decoded, raw.encode(), BELOW) == path


@pytest.mark.parametrize("name", NAMES)
async def test_every_route_of_a_model(app: Application, owner: Tenant, operator: httpx.AsyncClient, name: str) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "1.1.0")
    for prefix in ("/v1/models", f"/{owner.project.id}/v1/models"):
        assert (await owner.http.get(f"{prefix}/{name}")).json()["id"] == str(model)
    edited = await owner.http.patch(f"/v1/models/{name}", json={"description": "New."})
    assert edited.json()["description"] == "New."
    shared = await owner.http.post(f"/v1/models/{name}/share")
    assert (shared.status_code, shared.json()["id"]) == (200, str(model))
    assert len((await owner.http.get(f"/v1/models/{name}/versions")).json()["data"]) == 2
    assert (await owner.http.post(f"/v1/models/{name}/versions/1.1.0/promote")).json()["version"] == "1.1.0"
    assert (await owner.http.delete(f"/v1/models/{name}/versions/1.0.0")).status_code == 204
    assert (await owner.http.get(f"/v1/models/{name}/catalog")).json()["model"] == str(model)
    assert (await owner.http.get(f"/v1/models/{name}/recall")).json()["model"] == str(model)
    assert (await owner.http.get(f"/v1/catalog/models/{name}")).json()["id"] == str(model)
    if "/" in name or "%" in name:
        featured = await operator.post(f"/v1/platform/catalog/{name}/feature", json={"featured": True})
        assert featured.status_code == 200
    spec = {"slug": "chat", "model": name.replace("%2F", "/").replace("%2f", "/"), "tier": "self_hosted"}
    assert (await owner.http.post("/v1/endpoints/explain", json=spec)).json()["possible"] is True
    assert (await owner.http.post("/v1/endpoints", json=spec)).json()["model"] == str(model)
    upload = await owner.http.post(f"/v1/models/{name}/versions", json={"files": opening(tiny_model())["files"]})
    assert upload.json()["model"] == str(model)
    assert (await owner.http.post(f"/v1/models/{name}/unshare")).status_code == 200


async def test_others_name_what_they_see_with_its_owner(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    for http in (anonymous, deployer.http):
        for name in ("acme/tiny", f"{owner.project.id}/tiny"):
            assert (await http.get(f"/v1/catalog/models/{name}")).json()["id"] == str(model)
        assert message(await http.get("/v1/catalog/models/tiny")) == "Invalid model ID"
    spec = {"slug": "chat", "model": "acme/tiny", "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).json()["model"] == str(model)
    alone = await deployer.http.post("/v1/endpoints", json={**spec, "slug": "x", "model": "tiny"})
    assert problem(alone) == (404, "not_found_error", "model_not_found")


async def test_what_one_may_not_see_looks_absent(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    await make_model(app, owner.project.id, name="secret")
    seen = []
    for name in ("acme/secret", "acme/absent", "nobody/secret", str(uuid.uuid4())):
        answers = [
            await deployer.http.get(f"/v1/models/{name}"),
            await deployer.http.patch(f"/v1/models/{name}", json={"description": "x"}),
            await deployer.http.post(f"/v1/models/{name}/share"),
            await deployer.http.post(f"/v1/models/{name}/unshare"),
            await deployer.http.delete(f"/v1/models/{name}/versions/1.0.0"),
            await deployer.http.get(f"/v1/catalog/models/{name}"),
            await anonymous.get(f"/v1/catalog/models/{name}"),
            await deployer.http.post("/v1/endpoints", json={"slug": "s", "model": name, "tier": "self_hosted"}),
        ]
        seen.append([(problem(each), message(each)) for each in answers])
    assert all(each == seen[0] for each in seen)
    targets = {each["target"] for each in (await deployer.http.get("/v1/audit?limit=200")).json()["data"]}
    model = (await owner.http.get("/v1/models/secret")).json()["id"]
    assert f"model:{model}" not in targets, "nor does the log tell the id"


async def test_an_id_comes_before_a_name(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    other = await make_model(app, owner.project.id, name=str(model))
    assert (await owner.http.get(f"/v1/models/{model}")).json()["id"] == str(model)
    assert (await owner.http.get(f"/v1/models/acme/{model}")).json()["id"] == str(other)


@pytest.mark.parametrize("name", ["x" * 97, "a%00b", "%C3%A4", "a b", "-"])
async def test_rubbish(owner: Tenant, name: str) -> None:
    assert message(await owner.http.get(f"/v1/models/{name}")) == "Invalid model ID"
    assert (await owner.http.get(f"/v1/models/acme/{name}")).status_code in {400, 404}


async def test_names_that_differ_in_case_only_are_refused(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    other = await make_model(app, owner.project.id, name="other")
    await make_model(app, deployer.project.id, name="TINY")
    pushed = await owner.http.post("/v1/uploads", json=opening(tiny_model(), name="Tiny"))
    assert error_of(pushed, 409) == (
        "Your project already has a model `tiny`, and names are not case-sensitive. Use `tiny`, or choose another name."
    )
    renamed = await owner.http.patch(f"/v1/models/{other}", json={"name": "TINY"})
    assert problem(renamed) == (409, "conflict_error", None)
    assert (await owner.http.patch(f"/v1/models/{model}", json={"name": "Tiny"})).status_code == 200, "its own name"
    assert (await open_upload(owner.http, tiny_model(), name="Tiny"))["model"] == str(model)


async def test_of_two_at_once_one_gets_the_name(app: Application, owner: Tenant) -> None:
    other = await make_model(app, owner.project.id, name="other")

    async def open_as(name: str) -> int:
        return (await owner.http.post("/v1/uploads", json=opening(tiny_model(), name=name))).status_code

    async def rename() -> int:
        return (await owner.http.patch(f"/v1/models/{other}", json={"name": "nEW"})).status_code

    codes = await asyncio.gather(open_as("new"), open_as("New"), rename())
    assert sorted(codes) in ([200, 409, 409], [201, 409, 409])
    names = [one["name"] for one in (await owner.http.get("/v1/models?extended=true")).json()["data"]]
    assert len([name for name in names if name.lower() == "new"]) == 1
