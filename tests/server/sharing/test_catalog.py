"""The public catalog: filters, sorts, pages, counts."""

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shelf(app: Application, owner: Tenant) -> dict[str, str]:
    """Three shared models and one that is not; name to id."""
    made = {
        "llama-8b": {"family": "llama", "parameters": 8_000_000_000, "tags": ("chat", "en")},
        "llama-1b": {"family": "llama", "parameters": 1_000_000_000, "tags": ("chat",)},
        "qwen-4b": {"family": "qwen", "parameters": 4_000_000_000, "tags": ("code",), "license": "mit"},
        "secret": {"family": "secret"},
    }
    ids = {name: str(await make_model(app, owner.project.id, name=name, **fields)) for name, fields in made.items()}  # type: ignore[arg-type]
    for name in list(ids)[:3]:
        assert (await owner.http.post(f"/v1/models/{ids[name]}/share")).status_code == 200
    return ids


async def names(client: httpx.AsyncClient, query: str) -> list[str]:
    response = await client.get(f"/v1/catalog/models?{query}")
    assert response.status_code == 200, response.text
    return [entry["name"] for entry in response.json()["data"]]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", {"llama-8b", "llama-1b", "qwen-4b"}),
        ("q=LLAMA", {"llama-8b", "llama-1b"}),
        ("q=llama+8b", {"llama-8b"}),
        ("q=acme", {"llama-8b", "llama-1b", "qwen-4b"}),
        ("q=%25", set()),
        ("q=secret", set()),
        ("family=qwen", {"qwen-4b"}),
        ("tag=chat", {"llama-8b", "llama-1b"}),
        ("tag=cha", set()),
        ("license=mit", {"qwen-4b"}),
        ("min_parameters=4000000000", {"llama-8b", "qwen-4b"}),
        ("max_parameters=4000000000&family=llama", {"llama-1b"}),
        ("min_context=4096", set()),
        ("format=gguf&role=deployable", {"llama-8b", "llama-1b", "qwen-4b"}),
        ("role=shared", set()),
    ],
)
@pytest.mark.usefixtures("shelf")
async def test_filters(anonymous: httpx.AsyncClient, query: str, wanted: set[str]) -> None:
    assert set(await names(anonymous, query)) == wanted


@pytest.mark.usefixtures("shelf")
async def test_sorts(anonymous: httpx.AsyncClient) -> None:
    assert await names(anonymous, "sort=name") == ["llama-1b", "llama-8b", "qwen-4b"]
    assert await names(anonymous, "sort=parameters") == ["llama-8b", "qwen-4b", "llama-1b"]
    assert (await names(anonymous, "q=qwen-4b&sort=relevance"))[0] == "qwen-4b"


@pytest.mark.parametrize("sort", ["relevance", "recent", "deployments", "parameters", "name"])
@pytest.mark.usefixtures("shelf")
async def test_pages_hold_every_model_once(anonymous: httpx.AsyncClient, sort: str) -> None:
    seen, cursor = [], ""
    for _ in range(3):
        page = (await anonymous.get(f"/v1/catalog/models?limit=1&sort={sort}{cursor}")).json()
        seen += [entry["name"] for entry in page["data"]]
        cursor = f"&after={page['next_cursor']}"
    assert page["has_more"] is False
    assert sorted(seen) == ["llama-1b", "llama-8b", "qwen-4b"]


@pytest.mark.usefixtures("shelf")
async def test_facets_count_what_matches(anonymous: httpx.AsyncClient) -> None:
    facets = (await anonymous.get("/v1/catalog/models?facets=true")).json()["facets"]
    assert facets["family"] == [{"value": "llama", "count": 2}, {"value": "qwen", "count": 1}]
    assert {entry["value"]: entry["count"] for entry in facets["tag"]} == {"chat": 2, "en": 1, "code": 1}
    narrowed = (await anonymous.get("/v1/catalog/models?facets=true&family=qwen")).json()["facets"]
    assert narrowed["license"] == [{"value": "mit", "count": 1}]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "sort=nonsense", "after=xyz", "role=none", "min_parameters=-1"]
)
async def test_bad_queries_say_what_is_wrong(anonymous: httpx.AsyncClient, query: str) -> None:
    response = await anonymous.get(f"/v1/catalog/models?{query}")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]


async def test_tiers_are_public(anonymous: httpx.AsyncClient) -> None:
    tiers = {tier["slug"]: tier for tier in (await anonymous.get("/v1/tiers")).json()["data"]}
    assert list(tiers) == [
        "free",
        "cpu_amd_optimized",
        "cpu_intel_optimized",
        "gpu_nvidia_shared",
        "gpu_amd_shared",
        "gpu_intel_shared",
        "self_hosted",
    ]
    assert tiers["free"]["tokens_per_minute"] == 10_000
    assert tiers["self_hosted"]["requests_per_minute"] is None


async def test_the_operator_sees_the_tiers_and_nobody_else_by_that_route(
    operator: httpx.AsyncClient, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    assert (await operator.get("/v1/platform/tiers")).json() == (await anonymous.get("/v1/tiers")).json()
    assert (await owner.http.get("/v1/platform/tiers")).status_code == 403
    assert (await anonymous.get("/v1/platform/tiers")).status_code == 401
