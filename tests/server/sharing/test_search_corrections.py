"""Typos: what is searched instead, and that nobody learns a word by it that he may not see."""

import httpx
import pytest
from sqlalchemy import select

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.sharing import search
from modelshare.server.sharing.search.tables import CatalogWordRow

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shelf(app: Application, owner: Tenant) -> dict[str, str]:
    """Two public models and one for `borg`; name to id."""
    ids = {}
    for name in ("mistral-7b-instruct", "gemma-2b", "confidential"):
        ids[name] = str(await make_model(app, owner.project.id, name=name, family=name.split("-")[0]))
        audience = {"projects": ["borg"]} if name == "confidential" else "public"
        answer = await owner.http.post(f"/v1/models/{ids[name]}/share", json={"audience": audience})
        assert answer.status_code == 200, answer.text
    await search.learn(app.database)
    return ids


async def ask(client: httpx.AsyncClient, q: str, **query: str | int) -> tuple[list[str], str | None]:
    page = (await client.get("/v1/catalog/models", params={"q": q, **query})).json()
    return [entry["name"] for entry in page["data"]], page["corrected"]


@pytest.mark.parametrize(
    ("q", "corrected"),
    [
        ("mistrl", "mistral"),
        ("mistrall", "mistral"),
        ("mistrel", "mistral"),
        ("imstral", "mistral"),
        ("MISTRÀL", None),
        ("mist", None),
        ("mistrel 7b", "mistral 7 b"),
        ("mistral instruckt", "mistral instruct"),
        ("instrution mistral", None),
    ],
)
@pytest.mark.usefixtures("deployer", "shelf")
async def test_slips_are_forgiven(anonymous: httpx.AsyncClient, q: str, corrected: str | None) -> None:
    found = [] if q.startswith("instrution") else ["mistral-7b-instruct"]
    assert await ask(anonymous, q) == (found, corrected)


@pytest.mark.parametrize(
    "q", ["zzzzzz", "mistrl zzzzzz", "7b9", "gma", "mistral gemma", "confidentiel", "confidentia1"]
)
@pytest.mark.usefixtures("deployer", "shelf")
async def test_what_is_no_slip_finds_nothing(anonymous: httpx.AsyncClient, q: str) -> None:
    assert await ask(anonymous, q) == ([], None)


async def test_words_of_what_few_see_are_never_learned(
    app: Application, deployer: Tenant, owner: Tenant, shelf: dict[str, str]
) -> None:
    async with app.database.read() as session:
        known = set(await session.scalars(select(CatalogWordRow.word)))
    assert "mistral" in known
    assert "confidential" not in known
    assert await ask(deployer.http, "confidential") == (["confidential"], None)
    assert await ask(owner.http, "confidentiel") == ([], None)


async def test_a_word_whose_models_are_gone_leads_nowhere(
    anonymous: httpx.AsyncClient, owner: Tenant, deployer: Tenant, shelf: dict[str, str]
) -> None:
    narrowed = {"audience": {"projects": ["borg"]}}
    assert (await owner.http.post(f"/v1/models/{shelf['gemma-2b']}/share", json=narrowed)).status_code == 200
    assert await ask(anonymous, "gemmma") == ([], None)
    assert await ask(deployer.http, "gemmma") == (["gemma-2b"], "gemma")
    assert (await owner.http.post(f"/v1/models/{shelf['gemma-2b']}/unshare")).status_code == 200
    assert await ask(deployer.http, "gemmma") == ([], None)


async def test_what_changes_is_learned_anew_and_pages_go_on(
    app: Application, anonymous: httpx.AsyncClient, owner: Tenant, deployer: Tenant, shelf: dict[str, str]
) -> None:
    for model in ("gemma-2b", "mistral-7b-instruct"):
        patched = await owner.http.patch(f"/v1/models/{shelf[model]}", json={"description": "Wonderful"})
        assert patched.status_code == 200
    assert await ask(anonymous, "wondreful") == ([], None)
    await search.learn(app.database)
    query = {"q": "wondreful", "limit": "1"}
    page = (await anonymous.get("/v1/catalog/models", params=query)).json()
    rest = (await anonymous.get("/v1/catalog/models", params={**query, "after": page["next_cursor"]})).json()
    assert {page["data"][0]["name"], rest["data"][0]["name"]} == {"gemma-2b", "mistral-7b-instruct"}
    assert (page["total"], page["corrected"], rest["corrected"]) == (2, "wonderful", "wonderful")
