"""After a model is no longer shared with them, endpoints of other projects stay at the last version that was."""

import uuid
from collections.abc import AsyncIterator

import pytest

from answers import message, problem
from conftest import Tenant, new_tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from modelshare.server.endpoints import service as endpoints

pytestmark = pytest.mark.anyio
PUBLIC = {"audience": "public"}
TO_BORG, TO_CYAN = {"audience": {"projects": ["borg"]}}, {"audience": {"projects": ["cyan"]}}


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    return await make_model(app, owner.project.id)


@pytest.fixture
async def third(app: Application) -> AsyncIterator[Tenant]:
    tenant = await new_tenant(app, "cyan")
    async with tenant.http:
        yield tenant


async def share(owner: Tenant, model: uuid.UUID, body: object = PUBLIC) -> None:
    answer = await owner.http.post(f"/v1/models/{model}/share", json=body)
    assert answer.status_code == 200, answer.text


async def deploy(tenant: Tenant, model: uuid.UUID, version: str = "latest", slug: str = "chat") -> None:
    spec = {"slug": slug, "model": str(model), "tier": "self_hosted", "version": version}
    answer = await tenant.http.post("/v1/endpoints", json=spec)
    assert answer.status_code == 201, answer.text


async def release(app: Application, owner: Tenant, model: uuid.UUID, version: str) -> None:
    """A new version, which becomes the latest."""
    await add_version(app, model, version)
    promoted = await owner.http.post(f"/v1/models/{model}/versions/{version}/promote")
    assert promoted.status_code == 200, promoted.text


async def serves(app: Application, tenant: Tenant, slug: str = "chat") -> str | None:
    """The version that the view tells, the same as machines are told to hold and the router answers with."""
    shown = (await tenant.http.get(f"/v1/endpoints/{slug}")).json()
    async with app.database.read() as session:
        (active,) = await endpoints.active(session, [uuid.UUID(shown["id"])])
    versions = (await tenant.http.get(f"/v1/endpoints/{slug}")).json()["resolved_version"]
    assert (active.version_id is None) == (versions is None)
    return None if versions is None else str(versions)


async def test_nothing_that_comes_after_unsharing_reaches_them(
    app: Application, owner: Tenant, deployer: Tenant, model: uuid.UUID
) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    await deploy(owner, model)
    await release(app, owner, model, "1.1.0")
    assert await serves(app, deployer) == "1.1.0"
    preview = (await owner.http.post(f"/v1/models/{model}/unshare?dry_run=true")).json()
    assert (preview["stops_following"], preview["stays_at"]) == (1, "1.1.0")
    assert "Active endpoints of other projects that follow `latest`: 1. They stay at 1.1.0" in preview["notes"][0]
    await owner.http.post(f"/v1/models/{model}/unshare")
    await release(app, owner, model, "2.0.0")
    assert (await serves(app, deployer), await serves(app, owner)) == ("1.1.0", "2.0.0")
    await owner.http.post(f"/v1/models/{model}/versions/1.0.0/rollback")
    assert (await serves(app, deployer), await serves(app, owner)) == ("1.1.0", "1.0.0")
    shown = (await deployer.http.get("/v1/endpoints/chat")).json()
    assert shown["version"] == "latest"
    assert "it stays at 1.1.0" in shown["version_note"]
    assert (await owner.http.get("/v1/endpoints/chat")).json()["version_note"] is None
    footprint = (await owner.http.get(f"/v1/models/{model}/catalog")).json()
    assert footprint["staying_at"] == {"1.1.0": 1}


async def test_they_choose_among_what_was_shared(
    app: Application, owner: Tenant, deployer: Tenant, model: uuid.UUID
) -> None:
    await share(owner, model)
    await release(app, owner, model, "1.1.0")
    await deploy(deployer, model, "1.0.0")
    await owner.http.post(f"/v1/models/{model}/unshare")
    await release(app, owner, model, "2.0.0")
    refused = await deployer.http.patch("/v1/endpoints/chat", json={"version": "2.0.0"})
    assert problem(refused)[:2] == (400, "invalid_request_error")
    assert "Choose `latest` or one of: 1.0.0, 1.1.0." in message(refused)
    assert "2.0.0" not in message(refused).replace("`2.0.0`", ""), "what is not shared is not told"
    for version, served in (("1.1.0", "1.1.0"), ("1.0.0", "1.0.0"), ("latest", "1.1.0")):
        assert (await deployer.http.patch("/v1/endpoints/chat", json={"version": version})).status_code == 200
        assert await serves(app, deployer) == served


async def test_shared_again_they_follow_again(
    app: Application, owner: Tenant, deployer: Tenant, third: Tenant, model: uuid.UUID
) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    await deploy(third, model)
    await owner.http.post(f"/v1/models/{model}/unshare")
    await release(app, owner, model, "2.0.0")
    await share(owner, model, TO_BORG)
    assert (await serves(app, deployer), await serves(app, third)) == ("2.0.0", "1.0.0")
    await share(owner, model)
    assert (await serves(app, deployer), await serves(app, third)) == ("2.0.0", "2.0.0")
    await owner.http.post(f"/v1/models/{model}/unshare")
    await release(app, owner, model, "3.0.0")
    assert (await serves(app, deployer), await serves(app, third)) == ("2.0.0", "2.0.0")


async def test_a_share_that_is_narrowed_leaves_those_behind_that_lose_it(
    app: Application, owner: Tenant, deployer: Tenant, third: Tenant, model: uuid.UUID
) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    await deploy(third, model)
    await share(owner, model, TO_BORG)
    await release(app, owner, model, "2.0.0")
    assert (await serves(app, deployer), await serves(app, third)) == ("2.0.0", "1.0.0")
    await share(owner, model, TO_CYAN)
    await release(app, owner, model, "3.0.0")
    assert (await serves(app, deployer), await serves(app, third)) == ("2.0.0", "3.0.0")
    await owner.http.post(f"/v1/models/{model}/unshare")
    await release(app, owner, model, "4.0.0")
    assert (await serves(app, deployer), await serves(app, third)) == ("2.0.0", "3.0.0")


async def test_who_claims_a_link_follows(app: Application, owner: Tenant, deployer: Tenant, model: uuid.UUID) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    link = (await owner.http.post(f"/v1/models/{model}/share", json={"audience": {"link": {}}})).json()["link"]
    await release(app, owner, model, "2.0.0")
    assert await serves(app, deployer) == "1.0.0", "a link makes the share a targeted one"
    await deployer.http.post("/v1/catalog/claims", json={"token": link["token"]})
    assert await serves(app, deployer) == "2.0.0"


async def test_a_recall_leaves_them_where_they_are(
    app: Application, owner: Tenant, deployer: Tenant, model: uuid.UUID
) -> None:
    await share(owner, model)
    await deploy(deployer, model)
    recall = {"deadline": 4_000_000_000, "reason": "Licence."}
    assert (await owner.http.post(f"/v1/models/{model}/recall", json=recall)).status_code == 200
    await release(app, owner, model, "2.0.0")
    assert await serves(app, deployer) == "1.0.0"
    await owner.http.post(f"/v1/models/{model}/recall", json={"deadline": None})
    assert await serves(app, deployer) == "1.0.0"
    await share(owner, model)
    assert await serves(app, deployer) == "2.0.0"


async def test_a_share_without_a_body_changes_nothing(
    app: Application, owner: Tenant, deployer: Tenant, third: Tenant, model: uuid.UUID
) -> None:
    await share(owner, model, TO_BORG)
    for body in (None, {}, {"audience": None}):
        answer = await owner.http.post(f"/v1/models/{model}/share", json=body)
        assert (answer.status_code, answer.json()["audience"]) == (200, "targeted")
    assert (await third.http.get(f"/v1/catalog/models/{model}")).status_code == 404
    await share(owner, model, PUBLIC)
    assert (await third.http.get(f"/v1/catalog/models/{model}")).status_code == 200
