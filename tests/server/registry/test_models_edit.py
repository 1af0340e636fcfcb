"""PATCH /v1/models/{id}."""

from typing import Any

import httpx
import pytest

from answers import message, problem
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
CARD: dict[str, Any] = {
    "display_name": "Tiny, the first",
    "description": "Small talk.",
    "tags": ["chat", "small"],
    "license": "mit",
    "card": "# Tiny",
}


async def test_what_people_read_can_be_edited_and_the_catalog_shows_it(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    edited = await owner.http.patch(f"/v1/models/{model}", json=CARD)
    assert edited.status_code == 200
    shown = (await anonymous.get(f"/v1/catalog/models/{model}")).json()
    for field, value in CARD.items():
        assert edited.json()[field] == shown[field] == value
    assert edited.json()["name"] == "tiny", "what was not named stays"
    cleared = (await owner.http.patch(f"/v1/models/{model}", json={"description": None, "tags": None})).json()
    assert (cleared["description"], cleared["tags"], cleared["license"]) == (None, [], "mit")


async def test_a_rename_keeps_everything_else(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    before = (await anonymous.get(f"/v1/catalog/models/{model}")).json()
    renamed = await owner.http.patch(f"/v1/models/{model}", json={"name": "Tiny_2.0"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Tiny_2.0")
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).json() == {**before, "name": "Tiny_2.0"}
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["target"], entry["details"]) == (
        "model.edit",
        f"model:{model}",
        {"name": "Tiny_2.0", "fields": ["name"]},
    )


async def test_a_taken_name(app: Application, owner: Tenant, deployer: Tenant) -> None:
    await make_model(app, owner.project.id, name="taken")
    await make_model(app, deployer.project.id, name="elsewhere")
    model = await make_model(app, owner.project.id)
    conflict = await owner.http.patch(f"/v1/models/{model}", json={"name": "taken", "description": "lost?"})
    assert problem(conflict) == (409, "conflict_error", None)
    assert "`taken`" in message(conflict)
    kept = (await owner.http.get(f"/v1/models/{model}")).json()
    assert (kept["name"], kept["description"]) == ("tiny", "About tiny"), "bad input changes nothing"
    assert (await owner.http.patch(f"/v1/models/{model}", json={"name": "elsewhere"})).status_code == 200
    assert (await owner.http.patch(f"/v1/models/{model}", json={"name": "elsewhere"})).status_code == 200


async def test_good_names(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    for name in ("a", "_", "A-b.c_d", "0", "x" * 96, "Llama-3.2-1B"):
        assert (await owner.http.patch(f"/v1/models/{model}", json={"name": name})).json()["name"] == name


async def test_bad_names(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    odd = ["", "x" * 97, "a b", "a/b", "-a", "a-", ".a", "a.", "a--b", "a..b", "ä", "a\n", "../a", None, 7]
    for name in odd:
        answer = await owner.http.patch(f"/v1/models/{model}", json={"name": name})
        assert problem(answer) == (400, "invalid_request_error", None)
        assert "`name`" in message(answer)
        assert "^" not in message(answer), "a sentence, no regular expression"
    assert (await owner.http.get(f"/v1/models/{model}")).json()["name"] == "tiny"


async def test_nothing_else_can_be_edited(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    before = (await owner.http.get(f"/v1/models/{model}")).json()
    for field, value in {
        "manifest": {},
        "manifest_digest": "sha256:" + "0" * 64,
        "size_bytes": 1,
        "status": "ready",
        "version": "2.0.0",
        "is_shared": True,
        "catalog_role": "shared",
        "featured": True,
        "project_id": "proj_000000000000",
        "descripton": "a slip",
    }.items():
        answer = await owner.http.patch(f"/v1/models/{model}", json={field: value, "description": "new"})
        assert problem(answer) == (400, "invalid_request_error", None)
        assert f"`{field}`" in message(answer)
    assert (await owner.http.get(f"/v1/models/{model}")).json() == before


async def test_bad_input(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tags": [""]}, "`tags.0`"),
        ({"tags": ["x"] * 51}, "`tags`"),
        ({"tags": "chat"}, "`tags`"),
        ({"description": "x" * 2001}, "`description`"),
        ({"description": "a\0b"}, "`description`"),
        ({"card": "x" * 400_001}, "`card`"),
        ({"display_name": ["x"]}, "`display_name`"),
    ]
    for body, words in cases:
        answer = await owner.http.patch(f"/v1/models/{model}", json=body)
        assert problem(answer) == (400, "invalid_request_error", None)
        assert words in message(answer)
