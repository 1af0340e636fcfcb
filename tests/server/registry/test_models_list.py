"""GET /v1/models and /v1/models/{id}."""

import uuid

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


async def test_the_list_has_openais_form(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    body = (await owner.http.get("/v1/models")).json()
    (entry,) = body["data"]
    assert body["object"] == "list"
    assert (entry["id"], entry["object"], entry["owned_by"]) == (str(model), "model", "acme")
    assert isinstance(entry["created"], int)
    assert set(entry) == {"id", "object", "created", "owned_by"}


async def test_the_extended_list_tells_all_but_the_card(app: Application, owner: Tenant) -> None:
    ready = await make_model(app, owner.project.id, name="ready-one", size=7)
    failed = await make_model(app, owner.project.id, name="failed-one", status="failed")
    await owner.http.patch(f"/v1/models/{ready}", json={"card": "# Long"})
    await owner.http.post(f"/v1/models/{ready}/share")
    second, first = (await owner.http.get("/v1/models?extended=true")).json()["data"]
    assert (first["id"], first["status"], first["version"]) == (str(ready), "ready", "1.0.0")
    assert (first["format"], first["size_bytes"], first["architecture"]) == ("gguf", 7, "llama")
    assert (first["is_shared"], first["catalog_role"], first["deployment_count"]) == (True, "deployable", 0)
    assert first["card"] is None
    assert (second["id"], second["status"], second["is_shared"]) == (str(failed), "failed", False)
    assert (second["catalog_role"], second["shared_at"], second["featured"]) == (None, None, False)
    assert second["status_reason"] == "It holds no weights."


async def test_one_model_is_told_as_in_the_list_and_with_its_card(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.patch(f"/v1/models/{model}", json={"card": "# Card"})
    one = (await owner.http.get(f"/v1/models/{model}")).json()
    (listed,) = (await owner.http.get("/v1/models?extended=true")).json()["data"]
    assert one == {**listed, "card": "# Card"}


async def test_pages_hold_every_model_once_newest_first(app: Application, owner: Tenant) -> None:
    made = [str(await make_model(app, owner.project.id, name=f"m{number}")) for number in range(5)]
    seen, cursor = [], ""
    for _ in range(3):
        page = (await owner.http.get(f"/v1/models?limit=2{cursor}")).json()
        seen += [entry["id"] for entry in page["data"]]
        cursor = f"&after={page['next_cursor']}"
    assert seen == made[::-1]
    assert (page["has_more"], page["next_cursor"]) == (False, None)


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "after=x", "after=WyJ4Il0", "extended=perhaps"])
async def test_bad_input(owner: Tenant, query: str) -> None:
    answer = await owner.http.get(f"/v1/models?{query}")
    assert problem(answer) == (400, "invalid_request_error", None)
    assert answer.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_anothers_model_looks_absent(app: Application, owner: Tenant, deployer: Tenant, method: str) -> None:
    """Even while it is in the catalog: only its owner manages it."""
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    body = {"name": "mine-now"} if method == "PATCH" else None
    foreign = await deployer.http.request(method, f"/v1/models/{model}", json=body)
    absent = await deployer.http.request(method, f"/v1/models/{uuid.uuid4()}", json=body)
    assert problem(foreign) == (404, "not_found_error", "model_not_found")
    assert message(foreign) == message(absent)
    assert (await deployer.http.get("/v1/models")).json()["data"] == []
    assert (await owner.http.get(f"/v1/models/{model}")).json()["name"] == "tiny"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/{id}"),
        ("PATCH", "/{id}"),
        ("DELETE", "/{id}"),
        ("GET", "/{id}/versions"),
        ("POST", "/{id}/versions/1.0.0/promote"),
        ("POST", "/{id}/versions/1.0.0/rollback"),
        ("DELETE", "/{id}/versions/1.0.0"),
        ("GET", "/{id}/catalog"),
        ("POST", "/{id}/revalidate"),
        ("POST", "/{id}/share"),
    ],
)
async def test_without_a_key_or_scope(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient, method: str, path: str
) -> None:
    url = "/v1/models" + path.format(id=await make_model(app, owner.project.id))
    body = {"name": "new"} if method == "PATCH" else None
    assert problem(await anonymous.request(method, url, json=body)) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "e", "scopes": ["endpoints"]})).json()
    async with client_of(app, lesser["key"]) as http:
        refused = await http.request(method, url, json=body)
        assert problem(refused) == (403, "permission_error", None)
        assert "`models`" in message(refused)


@pytest.mark.parametrize("path", ["", "/versions", "/catalog"])
async def test_no_uuid(owner: Tenant, path: str) -> None:
    answer = await owner.http.get(f"/v1/models/not-a-uuid{path}")
    assert (answer.status_code, message(answer)) == (400, "Invalid model ID")
