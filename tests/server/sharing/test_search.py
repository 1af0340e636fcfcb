"""Searching the catalog: words, filters, counts, bounds, hostile words; on both databases."""

import uuid
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing import search
from modelshare.server.sharing.search import ordering, service
from modelshare.server.sharing.tables import ShareRow
from modelshare.wire.endpoints import EndpointStatus
from modelshare.wire.tiers import SELF_HOSTED

pytestmark = pytest.mark.anyio
SORTS = ("relevance", "recent", "deployments", "parameters", "name")
HOSTILE = (
    '" OR * NEAR(',
    "terms:llama",
    "'; DROP TABLE catalog_entries; --",
    "llama & | ! :* <->",
    "{terms} : ^llama",
    "\x00",
    "%_\\",
    "<script>alert(1)</script>",
    "\u202eamall",
    "x" * 200,
    "a " * 100,
    "日本語" * 60,
    "🙂" * 100,
    "()" * 100,
    "-- /* */",
)


async def shelve(app: Application, tenant: Tenant, **fields: Any) -> uuid.UUID:
    """A shared model."""
    model_id = await make_model(app, tenant.project.id, **fields)
    assert (await tenant.http.post(f"/v1/models/{model_id}/share")).status_code == 200
    return model_id


async def fill(app: Application, project_id: str, names: Sequence[str]) -> None:
    """Many shared models, quickly; every third is of another size, some have deployments."""
    ids = [
        await make_model(app, project_id, name=name, parameters=10**9 * (1 + n % 3), family=f"family{n % 4}")
        for n, name in enumerate(names)
    ]
    async with app.database.write() as session:
        for n, model_id in enumerate(ids):
            count = int(n % 10 == 0) * n // 10
            (await session.get_one(ModelRow, model_id)).active_endpoints = count
            session.add_all(
                EndpointRow(
                    project_id=project_id,
                    slug=f"{names[n]}-{each}",
                    model_id=model_id,
                    tier=SELF_HOSTED,
                    is_active=True,
                    status=EndpointStatus.PROVISIONING,
                    created_at=0,
                )
                for each in range(count)
            )
            session.add(
                ShareRow(
                    model_id=model_id,
                    role="deployable",
                    shared_at=n // 7,
                    deployment_count=count,
                    shared_tier_endpoints=0,
                )
            )
            await search.index(session, model_id)


async def ask(client: httpx.AsyncClient, **query: str | int) -> dict[str, Any]:
    response = await client.get("/v1/catalog/models", params={"facets": "true", **query})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def names(client: httpx.AsyncClient, **query: str | int) -> set[str]:
    return {entry["name"] for entry in (await ask(client, **query))["data"]}


async def test_an_empty_catalog(anonymous: httpx.AsyncClient) -> None:
    for query in ({}, {"q": "llama"}, {"family": "llama"}, {"q": "%"}):
        page = await ask(anonymous, **query)
        assert (page["data"], page["total"], page["total_is_exact"], page["next_cursor"]) == ([], 0, True, None)
        assert set(map(len, page["facets"].values())) == {0}


async def test_words_are_found_as_they_are_typed(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    await shelve(app, owner, name="Llama-3.1-8B-Instruct", family="llama")
    await shelve(app, owner, name="model000123", family="mistral")
    for n in range(1, len("instruct") + 1):
        assert await names(anonymous, q="instruct"[:n]) == {"Llama-3.1-8B-Instruct"}
    for q in ("LLAMA 8b", "8b llama", "llama-3.1", "inst llam", "model000123", "model0001", "mistral", "acme mod"):
        assert len(await names(anonymous, q=q)) == 1, q
    for q in ("nstruct", "llama 9b", "llama mistral"):
        assert await names(anonymous, q=q) == set(), q


async def test_accents_and_other_scripts(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = await shelve(app, owner, name="polyglot")
    about = {
        "display_name": "日本語モデル",
        "description": "Modèle élégant · Straße · مرحبا · נייד",
        "tags": ["français"],
    }
    assert (await owner.http.patch(f"/v1/models/{model}", json=about)).status_code == 200
    for q in ("日本", "語", "modele", "MODÈLE", "élégant", "strasse", "مرحبا", "fran"):
        assert await names(anonymous, q=q) == {"polyglot"}, q
    for q in ("中", "élég"):  # what a model is called is found by its beginning, what is said of it by its words
        assert await names(anonymous, q=q) == set(), q


async def test_each_filter_and_the_bucket_that_counts_it(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    await shelve(app, owner, name="small", family="llama", parameters=2_999_999_999, tags=("chat", "fr"))
    await shelve(app, owner, name="middle", family="qwen", parameters=3_000_000_000, license="mit")
    await shelve(app, owner, name="unknown", family="qwen", parameters=0)
    page = await ask(anonymous)
    counted = {name: {each["value"]: each["count"] for each in values} for name, values in page["facets"].items()}
    assert page["total"] == 3
    assert counted == {
        "family": {"qwen": 2, "llama": 1},
        "license": {"apache-2.0": 2, "mit": 1},
        "architecture": {"qwen": 2, "llama": 1},
        "format": {"gguf": 3},
        "role": {"deployable": 3},
        "tag": {"chat": 3, "fr": 1},
        "parameters": {"1B-3B": 1, "3B-8B": 1},
        "context": {"0K-4K": 3},
    }
    bucket = {"min_parameters": 10**9, "max_parameters": 3 * 10**9 - 1}
    for query, wanted in (
        (bucket, {"small"}),
        ({"min_parameters": 3 * 10**9}, {"middle"}),
        ({"max_parameters": 3 * 10**9}, {"small", "middle"}),
        ({"min_parameters": 0}, {"small", "middle"}),
        ({"min_parameters": 5, "max_parameters": 4}, set()),
        ({"min_context": 2048, "max_context": 2048}, {"small", "middle", "unknown"}),
        ({"min_context": 2049}, set()),
        ({"max_context": 2047}, set()),
        ({"tag": "fr"}, {"small"}),
        ({"tag": "FR"}, set()),
        ({"family": "qwen", "license": "mit"}, {"middle"}),
        ({"family": "\x00"}, set()),
        ({"architecture": "llama", "q": "sma"}, {"small"}),
    ):
        assert await names(anonymous, **query) == wanted, query
        assert (await ask(anonymous, **query))["total"] == len(wanted)


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_hostile_words(app: Application, owner: Tenant, anonymous: httpx.AsyncClient, hostile: str) -> None:
    model = await shelve(app, owner, name="victim")
    written = hostile.strip("\x00\u202e")  # which no name takes
    about = {"display_name": written or None, "description": written * (2000 // max(len(written), 1)), "tags": ["x"]}
    assert (await owner.http.patch(f"/v1/models/{model}", json=about)).status_code == 200
    for sort in SORTS:
        await ask(anonymous, q=hostile, sort=sort)
    for filters in ("family", "tag", "license", "architecture", "format"):
        assert await names(anonymous, **{filters: hostile}) == set()
    assert await names(anonymous, q="victim") == {"victim"}
    assert await names(anonymous, tag="x") == {"victim"}


async def test_sixty_models_and_what_is_said_beyond_the_bound(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(app, owner.project.id, [f"model-{n:02}" for n in range(60)])
    page = await ask(anonymous, q="model", limit=10)
    assert (page["total"], page["total_is_exact"], page["has_more"]) == (60, True, True)
    assert sum(each["count"] for each in page["facets"]["family"]) == 60
    for module in (service, ordering):
        monkeypatch.setattr(module, "FEW", 20)
    page = await ask(anonymous, q="model", limit=10)
    assert (page["total"], page["total_is_exact"], len(page["data"])) == (20, False, 10)
    assert sum(each["count"] for each in page["facets"]["family"]) == 20
    assert [entry["name"] for entry in page["data"]][:2] == ["model-50", "model-40"]
    page = await ask(anonymous, q="model", family="family1", limit=10)
    assert (page["total"], page["total_is_exact"]) == (15, True)


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(("few", "many", "steps"), [(2000, 8000, 1000), (10, 8000, 1000), (10, 20, 1000), (10, 20, 7)])
async def test_pages_visit_each_model_once_while_others_come_and_go(  # noqa: PLR0917 - fixtures
    app: Application,
    owner: Tenant,
    anonymous: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    sort: str,
    few: int,
    many: int,
    steps: int,
) -> None:
    for module in (service, ordering):
        monkeypatch.setattr(module, "FEW", few)
    monkeypatch.setattr(ordering, "MANY", many)
    monkeypatch.setattr(ordering, "STEPS", steps)
    monkeypatch.setattr(ordering, "FIRST_STEPS", min(steps, 3))
    kept = {f"model-{n:02}" for n in range(40)}
    await fill(app, owner.project.id, sorted([*kept, *(f"model-{n:02}-gone" for n in range(0, 40, 5))]))
    others = [await make_model(app, owner.project.id, name=f"model-{n}-new") for n in range(5, 36, 10)]
    going = (await ask(anonymous, q="gone", limit=200))["data"]
    seen: list[str] = []
    query: dict[str, str | int] = {"q": "model", "sort": sort, "limit": 6}
    for page_number in range(200):
        page = await ask(anonymous, **query)
        seen += [entry["name"] for entry in page["data"]]
        if page["next_cursor"] is None:
            break
        query["after"] = page["next_cursor"]
        if others and page_number % 2:
            assert (await owner.http.post(f"/v1/models/{others.pop()}/share")).status_code == 200
        if going:
            assert (await owner.http.post(f"/v1/models/{going.pop()['id']}/unshare")).status_code == 200
    else:
        pytest.fail("the pages have no end")
    assert len(seen) == len(set(seen))
    assert set(seen) >= kept
