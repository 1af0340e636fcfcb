"""GET /v1/audit: who did what, when and why; refusals too."""

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


async def entries(http: httpx.AsyncClient, query: str = "") -> list[dict[str, object]]:
    answer = await http.get(f"/v1/audit{query}")
    assert answer.status_code == 200
    return list(answer.json()["data"])


async def test_who_what_and_when(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    key = (await owner.http.post("/v1/keys", json={"name": "sharer"})).json()
    async with client_of(app, key["key"]) as http:
        before = app.platform.now()
        await http.post(f"/v1/models/{model}/share")
    entry = (await entries(owner.http))[0]
    assert entry["actor"] == f"key:{key['id']}"
    assert (entry["action"], entry["target"]) == ("model.share", f"model:{model}")
    assert (entry["outcome"], entry["reason"]) == ("done", None)
    assert isinstance(entry["at"], int)
    assert before <= entry["at"] <= app.platform.now()


async def test_every_action_leaves_its_entry(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    endpoint = {"slug": "e", "model": str(model), "tier": "free"}
    await owner.http.post(f"/v1/models/{model}/share")
    await owner.http.post("/v1/endpoints", json=endpoint)
    await owner.http.patch("/v1/endpoints/e", json={"is_active": False})
    await owner.http.delete("/v1/endpoints/e")
    await owner.http.post(f"/v1/models/{model}/unshare")
    await owner.http.patch(f"/v1/models/{model}", json={"license": "mit"})
    await owner.http.delete(f"/v1/models/{model}")
    actions = [str(entry["action"]) for entry in await entries(owner.http)]
    assert actions[::-1] == [
        "project.create",
        "model.share",
        "endpoint.create",
        "model.change_role",
        "model.change_role",
        "endpoint.change",
        "endpoint.delete",
        "model.unshare",
        "model.edit",
        "model.delete",
    ]


async def test_a_change_of_role_says_why(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    await owner.http.post("/v1/endpoints", json={"slug": "e", "model": str(model), "tier": "free"})
    await owner.http.delete("/v1/endpoints/e")
    down, up = [entry["details"] for entry in await entries(owner.http) if entry["action"] == "model.change_role"]
    why = {"name": "tiny", "why": "the first endpoint was created on a shared tier"}
    assert up == {"before": "deployable", "after": "shared", **why}
    assert down == {
        "before": "shared",
        "after": "deployable",
        "name": "tiny",
        "why": "no endpoint is left on a shared tier",
    }


async def test_refusals_say_why(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    refused = [
        await deployer.http.post(f"/v1/models/{model}/share"),
        await deployer.http.post(f"/v1/models/{model}/unshare"),
        await deployer.http.post("/v1/endpoints", json={"slug": "e", "model": str(model), "tier": "free"}),
    ]
    found = (await entries(deployer.http))[:3][::-1]
    assert [entry["action"] for entry in found] == ["model.share", "model.unshare", "endpoint.create"]
    assert [entry["reason"] for entry in found] == [message(answer) for answer in refused]
    assert {entry["outcome"] for entry in found} == {"refused"}
    assert [entry["action"] for entry in await entries(owner.http)] == ["project.create"], "not the owner's business"


async def test_tenants_apart(app: Application, owner: Tenant, deployer: Tenant, operator: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    await deployer.http.post("/v1/endpoints", json={"slug": "e", "model": str(model), "tier": "self_hosted"})
    assert [entry["action"] for entry in await entries(deployer.http)] == ["endpoint.create", "project.create"]
    assert "endpoint.create" not in [entry["action"] for entry in await entries(owner.http)]
    assert [entry["action"] for entry in await entries(operator)] == ["key.create"], "the platform's own"
    named = await operator.get(f"/{owner.project.id}/v1/audit")
    assert named.json() == (await owner.http.get("/v1/audit")).json()


async def test_what_the_platform_does_in_a_project_is_in_its_log(
    app: Application, owner: Tenant, operator: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    await operator.post(f"/v1/platform/catalog/{model}/feature", json={"featured": True})
    entry = (await entries(owner.http))[0]
    assert entry["action"] == "model.feature"
    (made,) = await entries(operator)
    assert entry["actor"] == str(made["target"])


async def test_pages_hold_every_entry_once_newest_first(owner: Tenant) -> None:
    for number in range(4):
        await owner.http.post("/v1/keys", json={"name": f"k{number}"})
    seen, cursor = [], ""
    for _ in range(3):
        page = (await owner.http.get(f"/v1/audit?limit=2{cursor}")).json()
        seen += [entry["details"].get("name") for entry in page["data"]]
        cursor = f"&after={page['next_cursor']}"
    assert seen == ["k3", "k2", "k1", "k0", None]
    assert page["has_more"] is False


async def test_what_fits_alone_is_shown(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    key = (await owner.http.post("/v1/keys", json={"name": "sharer"})).json()
    async with client_of(app, key["key"]) as http:
        await http.post(f"/v1/models/{model}/unshare")
        await http.post(f"/v1/models/{model}/share")
    await owner.http.patch(f"/v1/models/{model}", json={"license": "mit"})

    async def shown(query: str) -> list[tuple[object, object]]:
        return [(entry["action"], entry["outcome"]) for entry in await entries(owner.http, f"?{query}")]

    created, edited = [(action, "done") for action in ("key.create", "model.edit")]
    shared, refused = ("model.share", "done"), ("model.unshare", "refused")
    assert await shown("action=model.share") == [shared]
    assert await shown("action=model") == [edited, shared, refused]
    assert await shown("action=key") == [created], "not what begins with the same letters"
    assert await shown(f"actor=key:{key['id']}") == [shared, refused]
    assert await shown(f"target=model:{model}") == [edited, shared, refused]
    assert await shown("outcome=refused") == [refused]
    assert await shown(f"action=model&actor=key:{key['id']}&outcome=done") == [shared]
    assert await shown("action=model_") == await shown("actor=nobody") == await shown("action=key.share") == []
    for name in ("tiny", "TINY", "acme/tiny", f"{owner.project.id}/tiny"):
        assert await shown(f"target=model:{name}") == await shown(f"target=model:{model}")
    assert await shown("target=model:acme/absent") == []
    assert await shown("action=&actor=&target=&outcome=") == await shown(""), "empty fields of a form"


async def test_pages_of_what_fits(owner: Tenant) -> None:
    for number in range(4):
        await owner.http.post("/v1/keys", json={"name": f"k{number}"})
        await owner.http.post("/v1/join-keys", json={"name": f"j{number}"})
    seen, cursor = [], ""
    for _ in range(2):
        page = (await owner.http.get(f"/v1/audit?action=key&limit=2{cursor}")).json()
        seen += [entry["details"]["name"] for entry in page["data"]]
        cursor = f"&after={page['next_cursor']}"
    assert seen == ["k3", "k2", "k1", "k0"]
    assert (page["has_more"], page["next_cursor"]) == (False, None)


async def test_filters_stay_within_the_tenant(owner: Tenant, deployer: Tenant, operator: httpx.AsyncClient) -> None:
    await owner.http.post("/v1/keys", json={"name": "mine"})
    (entry,) = await entries(owner.http, "?action=key")
    for query in ("action=key", f"actor={entry['actor']}", f"target={entry['target']}"):
        assert await entries(deployer.http, f"?{query}") == []
        assert entry not in await entries(operator, f"?{query}")
    assert [made["action"] for made in await entries(operator, "?action=key&outcome=done")] == ["key.create"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("action=Model", "an action such as `model.share`"),
        ("action=model.", "an action such as `model.share`"),
        ("action=%25", "an action such as `model.share`"),
        ("outcome=maybe", "'done' or 'refused'"),
        ("actor=%00", "NUL"),
    ],
)
async def test_what_cannot_be_asked_for(owner: Tenant, query: str, said: str) -> None:
    answer = await owner.http.get(f"/v1/audit?{query}")
    assert problem(answer) == (400, "invalid_request_error", None)
    assert said in message(answer)


@pytest.mark.parametrize("query", ["limit=0", "after=x", "after=WyJ4Il0"])
async def test_bad_input(owner: Tenant, query: str) -> None:
    assert problem(await owner.http.get(f"/v1/audit?{query}")) == (400, "invalid_request_error", None)


async def test_without_a_key_or_scope(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    assert problem(await anonymous.get("/v1/audit")) == ANONYMOUS
    lesser = (await owner.http.post("/v1/keys", json={"name": "i", "scopes": ["inference", "models"]})).json()
    async with client_of(app, lesser["key"]) as http:
        refused = await http.get("/v1/audit")
        assert problem(refused) == (403, "permission_error", None)
        assert "`keys`" in message(refused)


async def test_what_failed_is_not_told_as_done(app: Application, owner: Tenant) -> None:
    """The entry is in the transaction of the change."""
    await make_model(app, owner.project.id, name="taken")
    model = await make_model(app, owner.project.id)
    assert (await owner.http.patch(f"/v1/models/{model}", json={"name": "taken"})).status_code == 409
    assert [entry["action"] for entry in await entries(owner.http)] == ["project.create"]
