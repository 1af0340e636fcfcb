"""Shares that are not for everybody: named projects, claim links; and that nobody else learns of them."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from clock import Clock
from conftest import Tenant, client_of, new_tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def stranger(app: Application) -> AsyncIterator[Tenant]:
    """A project that nobody shares anything with."""
    tenant = await new_tenant(app, "cyan")
    async with tenant.http:
        yield tenant


@pytest.fixture
async def model(app: Application, owner: Tenant) -> str:
    return str(await make_model(app, owner.project.id, name="rare", family="rarefamily", tags=("raretag",)))


async def share(tenant: Tenant, model: str, audience: Any) -> dict[str, Any]:
    answer = await tenant.http.post(f"/v1/models/{model}/share", json={"audience": audience})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def sees(http: httpx.AsyncClient, model: str) -> bool:
    """Whether the model is there, in the list, by search, by id and in every facet alike."""
    page = (await http.get("/v1/catalog/models?facets=true")).json()
    found = (await http.get("/v1/catalog/models?q=rare")).json()["data"]
    detail = await http.get(f"/v1/catalog/models/{model}")
    told = {
        model in {entry["id"] for entry in page["data"]},
        model in {entry["id"] for entry in found},
        "rarefamily" in str(page["facets"]["family"]),
        "raretag" in str(page["facets"]["tag"]),
        bool(page["facets"]["role"]),
        detail.status_code == 200,
    }
    assert len(told) == 1, "all of them agree"
    if detail.status_code != 200:
        assert problem(detail) == (404, "not_found_error", "model_not_found")
        absent = await http.get(f"/v1/catalog/models/{uuid.uuid4()}")
        assert absent.json() == detail.json(), "absent and forbidden look alike"
    return told.pop()


async def deploys(tenant: Tenant, model: str, slug: str = "e", tier: str = "self_hosted") -> httpx.Response:
    return await tenant.http.post("/v1/endpoints", json={"slug": slug, "model": model, "tier": tier})


async def test_only_the_named_projects_see_it(
    owner: Tenant,
    deployer: Tenant,
    stranger: Tenant,
    anonymous: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    model: str,
) -> None:
    shared = await share(owner, model, {"projects": ["borg"]})
    assert (shared["is_shared"], shared["audience"], shared["catalog_role"]) == (True, "targeted", "deployable")
    assert await sees(deployer.http, model)
    assert await sees(owner.http, model)
    assert await sees(operator, model)
    assert not await sees(stranger.http, model)
    assert not await sees(anonymous, model)
    entry = (await deployer.http.get(f"/v1/catalog/models/{model}")).json()
    assert (entry["audience"], entry["allowed_tiers"]) == ("targeted", ["self_hosted"])


async def test_no_word_makes_it_public(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    """However its name, description and tags read."""
    words = ["public", "ublic", "_public", "__public", "targeted", f"_{owner.project.id}"]
    model = await make_model(app, owner.project.id, name="ublic-secret")
    texts = {"description": " ".join(words), "tags": words, "display_name": "ublic"}
    assert (await owner.http.patch(f"/v1/models/{model}", json=texts)).status_code == 200
    await share(owner, str(model), {"projects": ["borg"]})
    for query in ("", "?q=ublic", "?q=public", "?tag=ublic", "?q=secret"):
        assert (await anonymous.get(f"/v1/catalog/models{query}")).json()["data"] == [], query
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404
    found = (await deployer.http.get("/v1/catalog/models?q=ublic")).json()["data"]
    assert [entry["id"] for entry in found] == [str(model)]


async def test_the_other_rules_are_alike(owner: Tenant, deployer: Tenant, stranger: Tenant, model: str) -> None:
    await share(owner, model, {"projects": [deployer.project.id]})
    assert problem(await deploys(deployer, model, tier="free")) == (403, "permission_error", "tier_not_allowed")
    assert (await deploys(deployer, model)).status_code == 201
    assert (await deploys(owner, model, tier="free")).status_code == 201
    assert (await deploys(deployer, model, "second", tier="free")).status_code == 201, "promoted"
    refused = await deploys(stranger, model)
    assert problem(refused) == (404, "not_found_error", "model_not_found")
    absent = await deploys(stranger, str(uuid.uuid4()))
    assert refused.json() == absent.json()
    explained = await stranger.http.post(
        "/v1/endpoints/explain", json={"slug": "e", "model": model, "tier": "self_hosted"}
    )
    assert [reason["rule"] for reason in explained.json()["reasons"]] == ["visibility"]


async def test_taking_visibility_back_leaves_endpoints(owner: Tenant, deployer: Tenant, model: str) -> None:
    first = await share(owner, model, {"projects": ["borg"]})
    assert (await deploys(deployer, model)).status_code == 201
    await new_owner_choice(owner, model, first)
    assert not await sees(deployer.http, model)
    assert (await deploys(deployer, model, "another")).status_code == 404
    (endpoint,) = (await deployer.http.get("/v1/endpoints")).json()["data"]
    assert (endpoint["slug"], endpoint["is_active"]) == ("e", True)


async def new_owner_choice(owner: Tenant, model: str, before: dict[str, Any]) -> None:
    """Only for whoever claims; role, count and time stay."""
    again = await share(owner, model, {"projects": [owner.project.slug]})
    assert {name: again[name] for name in ("shared_at", "catalog_role")} == {
        name: before[name] for name in ("shared_at", "catalog_role")
    }
    assert again["deployment_count"] == 1


async def test_no_body_on_what_is_not_shared_is_for_everybody(
    owner: Tenant, anonymous: httpx.AsyncClient, model: str
) -> None:
    assert not await sees(anonymous, model)
    assert (await owner.http.post(f"/v1/models/{model}/share")).json()["audience"] == "public"
    assert await sees(anonymous, model)


async def test_from_public_to_targeted_it_is_gone_at_once_and_no_more_featured(
    owner: Tenant, anonymous: httpx.AsyncClient, operator: httpx.AsyncClient, model: str
) -> None:
    await owner.http.post(f"/v1/models/{model}/share")
    feature = f"/v1/platform/catalog/{model}/feature"
    assert (await operator.post(feature, json={"featured": True})).status_code == 200
    assert (await share(owner, model, {"link": {}}))["featured"] is False
    assert not await sees(anonymous, model)
    refused = await operator.post(feature, json={"featured": True})
    assert problem(refused) == (409, "conflict_error", None)


@pytest.mark.parametrize(
    "audience",
    [
        "everybody",
        {},
        {"projects": []},
        {"projects": ["nobody-of-that-name"]},
        {"projects": "borg"},
        {"link": None},
        {"link": {"expires_in": 0}},
        {"link": {"max_uses": 0}},
        {"link": {"forever": True}},
        {"projects": ["borg"], "public": True},
        ["public"],
        7,
    ],
)
async def test_rubbish_changes_nothing(owner: Tenant, anonymous: httpx.AsyncClient, model: str, audience: Any) -> None:
    answer = await owner.http.post(f"/v1/models/{model}/share", json={"audience": audience})
    assert problem(answer)[:2] == (400, "invalid_request_error")
    assert "audience" in answer.json()["error"]["param"]
    assert not await sees(anonymous, model)
    assert (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"] is False


async def test_a_claim_link(owner: Tenant, deployer: Tenant, stranger: Tenant, model: str) -> None:
    link = (await share(owner, model, {"link": {"max_uses": 1, "expires_in": 3600}}))["link"]
    assert link["token"].startswith("msl_")
    assert not await sees(deployer.http, model)
    claimed = await deployer.http.post("/v1/catalog/claims", json={"token": link["token"]})
    assert (claimed.status_code, claimed.json()["id"]) == (200, model)
    assert await sees(deployer.http, model)
    assert (await deployer.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 200
    assert (await owner.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 200
    late = await stranger.http.post("/v1/catalog/claims", json={"token": link["token"]})
    assert problem(late)[:2] == (404, "not_found_error")
    assert "maximum number of uses" in message(late)
    assert not await sees(stranger.http, model)
    footprint = (await owner.http.get(f"/v1/models/{model}/catalog")).json()
    assert [(row["slug"], row["link"]) for row in footprint["projects"]] == [("borg", link["id"])]
    assert [(row["id"], row["uses"]) for row in footprint["links"]] == [(link["id"], 1)]
    assert "msl_" not in str(footprint)


async def test_a_link_expires(owner: Tenant, deployer: Tenant, model: str, clock: Clock) -> None:
    link = (await share(owner, model, {"link": {"expires_in": 60}}))["link"]
    clock.now += 61
    late = await deployer.http.post("/v1/catalog/claims", json={"token": link["token"]})
    assert late.status_code == 404
    assert "expired" in message(late)


async def test_a_link_is_ended_and_what_was_claimed_stays(
    owner: Tenant, deployer: Tenant, stranger: Tenant, model: str
) -> None:
    link = (await share(owner, model, {"link": {}}))["link"]
    assert (await deployer.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 200
    path = f"/v1/models/{model}/links/{link['id']}"
    assert (await deployer.http.delete(path)).status_code == 404
    assert (await owner.http.delete(path)).status_code == 204
    assert (await owner.http.delete(path)).status_code == 404
    assert (await stranger.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 404
    assert await sees(deployer.http, model)


async def test_links_add_and_projects_replace(owner: Tenant, deployer: Tenant, stranger: Tenant, model: str) -> None:
    await share(owner, model, {"projects": ["borg"]})
    link = (await share(owner, model, {"link": {}}))["link"]
    assert await sees(deployer.http, model), "a link is beside those who see it already"
    assert (await stranger.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 200
    await share(owner, model, {"projects": ["borg"]})
    assert not await sees(stranger.http, model)
    assert (await stranger.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 404


async def test_unsharing_ends_everything(owner: Tenant, deployer: Tenant, stranger: Tenant, model: str) -> None:
    await share(owner, model, {"projects": ["borg"]})
    link = (await share(owner, model, {"link": {}}))["link"]
    preview = (await owner.http.post(f"/v1/models/{model}/unshare?dry_run=true")).json()
    assert {"projects it is shared with (1)", "claim links (1)"} <= set(preview["removed"])
    unshared = (await owner.http.post(f"/v1/models/{model}/unshare")).json()
    assert (unshared["is_shared"], unshared["audience"]) == (False, None)
    assert not await sees(deployer.http, model)
    assert (await stranger.http.post("/v1/catalog/claims", json={"token": link["token"]})).status_code == 404
    await share(owner, model, {"link": {}})
    assert not await sees(deployer.http, model), "a fresh share starts with nobody"


async def test_a_link_is_claimed_no_more_often_than_it_may_be(app: Application, owner: Tenant, model: str) -> None:
    token = (await share(owner, model, {"link": {"max_uses": 3}}))["link"]["token"]
    tenants = [await new_tenant(app, f"t{number}") for number in range(8)]
    answers = await asyncio.gather(
        *(tenant.http.post("/v1/catalog/claims", json={"token": token}) for tenant in tenants)
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [404] * 5
    for tenant in tenants:
        await tenant.http.aclose()


async def test_both_sides_find_it_in_their_logs(owner: Tenant, deployer: Tenant, model: str) -> None:
    await share(owner, model, {"projects": ["borg"]})
    await share(owner, model, {"projects": ["borg"]})
    told = (await deployer.http.get("/v1/audit")).json()["data"]
    assert [entry["action"] for entry in told if entry["action"].startswith("model.")] == ["model.invite"]
    own = (await owner.http.get("/v1/audit")).json()["data"]
    assert [entry["action"] for entry in own if entry["action"].startswith("model.")] == [
        "model.change_audience",
        "model.share",
    ]
    assert own[0]["details"]["added"] == ["borg"]


@pytest.mark.parametrize("path", ["/v1/catalog/models", f"/v1/catalog/models/{uuid.UUID(int=7)}"])
async def test_a_key_that_is_sent_has_to_be_good(app: Application, path: str) -> None:
    async with client_of(app, "ms_acme_" + "x" * 43) as http:
        assert problem(await http.get(path)) == ANONYMOUS


async def test_a_key_that_only_calls_sees_what_everybody_sees(
    app: Application, owner: Tenant, deployer: Tenant, model: str
) -> None:
    await share(owner, model, {"projects": ["borg"]})
    for scopes, seen in ((["inference"], False), (["endpoints"], True), (["models"], True)):
        made = (await deployer.http.post("/v1/keys", json={"name": "k", "scopes": scopes})).json()
        async with client_of(app, made["key"]) as http:
            assert await sees(http, model) is seen


async def test_claims_need_a_key_with_the_scope(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, model: str
) -> None:
    token = (await share(owner, model, {"link": {}}))["link"]["token"]
    assert problem(await anonymous.post("/v1/catalog/claims", json={"token": token})) == ANONYMOUS
    made = (await deployer.http.post("/v1/keys", json={"name": "k", "scopes": ["inference"]})).json()
    async with client_of(app, made["key"]) as http:
        assert problem(await http.post("/v1/catalog/claims", json={"token": token}))[0] == 403
    assert (await deployer.http.post("/v1/catalog/claims", json={"token": "msl_nonsense"})).status_code == 404
    assert (await deployer.http.post("/v1/catalog/claims", json={})).status_code == 400


async def test_another_project_shares_nothing_of_this_one(owner: Tenant, deployer: Tenant, model: str) -> None:
    choices: list[Any] = [{"projects": ["borg"]}, {"link": {}}, "public"]
    for audience in choices:
        answer = await deployer.http.post(f"/v1/models/{model}/share", json={"audience": audience})
        assert problem(answer) == (400, "invalid_request_error", None)
    assert (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"] is False


async def test_a_share_without_a_word_leaves_the_audience_as_it_is(
    owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, model: str
) -> None:
    before = await share(owner, model, {"projects": ["borg"]})
    for body in ({}, {"audience": None}, None):
        answer = await owner.http.post(f"/v1/models/{model}/share", json=body)
        assert (answer.status_code, answer.json()["audience"]) == (200, "targeted"), body
        assert answer.json()["shared_at"] == before["shared_at"]
    assert (await owner.http.post(f"/v1/models/{model}/share")).json()["audience"] == "targeted"
    assert await sees(deployer.http, model)
    assert not await sees(anonymous, model)
    assert (await share(owner, model, "public"))["audience"] == "public"
    assert (await owner.http.post(f"/v1/models/{model}/share")).json()["audience"] == "public"


@pytest.mark.parametrize(
    "body",
    [
        {"audience": "public", "projects": ["borg"]},
        {"projects": ["borg"]},
        {"audience": {"projects": ["borg"], "link": {}}},
        {"audience": {"projects": ["borg"], "max_uses": 3}},
        {"audience": {"link": {"max_uses": 3, "projects": ["borg"]}}},
        {"audience": ["public", {"projects": ["borg"]}]},
        {"audience": "targeted"},
    ],
)
async def test_a_body_that_contradicts_itself_shares_nothing(owner: Tenant, model: str, body: dict[str, Any]) -> None:
    answer = await owner.http.post(f"/v1/models/{model}/share", json=body)
    assert answer.status_code == 400
    assert message(answer)
    assert not (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"]
