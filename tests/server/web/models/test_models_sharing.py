"""Whom a model is shared with, as its page says and changes it."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from conftest import Tenant
from factories import make_model
from link_agent import enroll, linked
from modelshare.server.app import Application
from modelshare.server.registry.service import model_changed
from modelshare.server.registry.tables import VersionRow
from page_texts import text_after_redirect, text_of
from served import serving, wait_until
from server.router.test_export import use
from server.web.conftest import ON_BOTH_DATABASES

pytestmark = pytest.mark.anyio
DAY = 86_400


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    return await make_model(app, owner.project.id)


@pytest.fixture
def page(model: uuid.UUID) -> str:
    return f"/dashboard/acme/models/{model}"


async def footprint(owner: Tenant, model: uuid.UUID) -> dict[str, Any]:
    return dict((await owner.http.get(f"/v1/models/{model}/catalog")).json())


async def deployed(deployer: Tenant, model: uuid.UUID) -> None:
    body = {"slug": "theirs", "model": str(model), "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=body)).status_code == 201


async def test_the_owner_sees_how_much_others_use_it(
    app: Application, owner: Tenant, deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    assert "Usage in 30 days" not in text_of(await person.get(page))
    await use(app, deployer.project.id, model_id=model, tier="free", version="1.0.0", endpoint_slug="secret-slug")
    await use(app, owner.project.id, model_id=model, requests=9, estimated=1)
    await use(app, deployer.project.id, model_id=model, day="2026-01-01")
    shown = text_of(await person.get(page))
    assert "Tokens Acme unknown unknown 9 1 ~ 30 Borg free 1.0.0 3 1 30" in shown
    assert "secret-slug" not in shown


async def test_sharing_with_everybody(owner: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str) -> None:
    assert "Only this project sees it." in text_of(await person.get(page))
    said = await text_after_redirect(person, await person.post(f"{page}/share", data={"audience": "public"}))
    assert "tiny is now in the catalog" in said
    assert "Everyone sees it in the catalog" in said
    assert "Its role is deployable" in said
    assert (await footprint(owner, model))["audience"] == "public"


async def test_sharing_with_named_projects(
    owner: Tenant, deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    form = {"audience": "projects", "projects": "borg"}
    said = await text_after_redirect(person, await person.post(f"{page}/share", data=form))
    assert "Certain projects see it" in said
    assert "Shared with Borg borg, named" in said
    assert [each["slug"] for each in (await footprint(owner, model))["projects"]] == ["borg"]
    assert 'value="borg"' in (await person.get(f"{page}/share")).text


@ON_BOTH_DATABASES
@pytest.mark.parametrize("in_place", [False, True])
async def test_a_claim_link_is_shown_once_and_can_be_claimed(
    owner: Tenant,
    deployer: Tenant,
    person: httpx.AsyncClient,
    model: uuid.UUID,
    page: str,
    in_place: bool,
) -> None:
    form = {"audience": "link", "expires_in": str(7 * DAY), "max_uses": "3"}
    answer = await person.post(f"{page}/share", data=form, headers={"HX-Request": "true"} if in_place else {})
    assert "Claim link created." in text_of(answer)
    assert answer.headers.get("hx-retarget") == ("#once" if in_place else None)
    [token] = set(re.findall(r"http://modelshare\.test/claim\?token=(msl_[\w-]+)", answer.text))
    assert (await deployer.http.post("/v1/catalog/claims", json={"token": token})).status_code == 200
    shown = await person.get(page)
    assert token not in shown.text
    assert re.search(r"claimed 1 of 3 times; expires in [67] days", text_of(shown))
    [link] = (await footprint(owner, model))["links"]
    assert "Link revoked" in await text_after_redirect(person, await person.post(f"{page}/links/{link['id']}/end"))
    after = await footprint(owner, model)
    assert (after["links"], [each["slug"] for each in after["projects"]]) == ([], ["borg"])


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"audience": "projects", "projects": " , "}, "Enter at least one project"),
        ({"audience": "projects", "projects": "nobody"}, "There is no project nobody"),
        ({"audience": "link", "max_uses": "many"}, "max_uses must be a whole number"),
        ({"audience": "link", "max_uses": "0"}, "max_uses"),
        ({"audience": "somebody"}, "audience"),
    ],
)
async def test_what_does_not_fit_shares_nothing(
    owner: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str, form: dict[str, str], words: str
) -> None:
    assert words in text_of(await person.post(f"{page}/share", data=form), 400)
    assert not (await footprint(owner, model))["is_shared"]


async def test_a_model_that_is_not_ready_is_not_shared(
    app: Application, owner: Tenant, person: httpx.AsyncClient
) -> None:
    failed = await make_model(app, owner.project.id, name="failed", status="failed")
    answer = await person.post(f"/dashboard/acme/models/{failed}/share", data={"audience": "public"})
    assert "failed its checks" in text_of(answer, 400)


async def test_unsharing_says_before_what_it_will_do(
    owner: Tenant, deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    await deployed(deployer, model)
    said = text_of(await person.get(f"{page}/unshare"))
    assert "1 active endpoint keeps serving, 1 of other projects." in said
    assert "deployment count (1)" in said
    assert "Other projects creating an endpoint with this model, on any tier." in said
    assert (await footprint(owner, model))["is_shared"]
    assert "tiny is no longer in the catalog." in await text_after_redirect(
        person, await person.post(f"{page}/unshare")
    )
    assert not (await footprint(owner, model))["is_shared"]
    assert "Model not found or not shared" in text_of(await person.post(f"{page}/unshare"), 404)


async def test_what_the_catalog_hides_is_not_said_to_be_seen(
    app: Application, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    async with app.database.write() as session:
        failed = update(VersionRow).where(VersionRow.model_id == model)
        await session.execute(failed.values(status="failed", is_latest=False, status_reason="It is damaged."))
        model_changed(session, model)
    said = text_of(await person.get(page))
    assert "Not listed." in said
    assert "Everyone sees it" not in said
    assert "not listed" in text_of(await person.get("/dashboard/acme/models"))


@ON_BOTH_DATABASES
async def test_the_owner_sees_who_deploys_it(
    deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    await deployed(deployer, model)
    said = text_of(await person.get(page))
    assert "self_hosted 1 active endpoint Projects Borg (1)" in said
    assert "Tokens served 0 (counts only, never prompts)" in said


async def test_a_recall_is_announced_changed_and_cancelled(
    app: Application, owner: Tenant, deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    await deployed(deployer, model)
    assert "1 active endpoint of 1 project now" in text_of(await person.get(f"{page}/recall"))
    form = {"when": "in", "amount": "3", "unit": "days", "reason": "The licence changed."}
    said = await text_after_redirect(person, await person.post(f"{page}/recall", data=form))
    assert "Recall announced" in said
    assert "“The licence changed.”" in said
    assert "Still serving 1 endpoint of other projects" in said
    notice = (await owner.http.get(f"/v1/models/{model}/recall")).json()["notice"]
    assert abs(notice["deadline"] - app.platform.now() - 3 * DAY) < 60

    form = {"when": "at", "at": "2099-01-31T12:00", "reason": "Later."}
    assert "2099-01-31 12:00 UTC" in await text_after_redirect(person, await person.post(f"{page}/recall", data=form))
    notice = (await owner.http.get(f"/v1/models/{model}/recall")).json()["notice"]
    assert notice["deadline"] == int(datetime(2099, 1, 31, 12, tzinfo=UTC).timestamp())

    assert "Recall cancelled." in await text_after_redirect(person, await person.post(f"{page}/recall/cancel"))
    assert (await owner.http.get(f"/v1/models/{model}/recall")).json()["notice"] is None


@pytest.mark.usefixtures("running_app")
async def test_a_recall_now_stops_others(
    deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    await deployed(deployer, model)
    await text_after_redirect(
        person, await person.post(f"{page}/recall", data={"when": "now", "reason": "It is unsafe."})
    )

    async def stopped() -> bool:
        return "Endpoints of other projects were stopped" in text_of(await person.get(page))

    await wait_until(stopped)
    assert "Still serving 0 endpoints" in text_of(await person.get(page))
    assert "This recall is complete" in text_of(
        await person.post(f"{page}/recall", data={"when": "now", "reason": "x"}), 409
    )


async def test_a_machine_that_has_not_confirmed_shows_with_a_recall_and_after(
    running_app: Application, deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    await deployed(deployer, model)
    async with serving(running_app) as url:
        agent_id, token = await enroll(deployer.http)
        async with linked(url, token, agent_id=agent_id) as link:
            await link.wanted()
            assert (await deployer.http.delete(f"/v1/agents/{agent_id}")).status_code == 204
    assert "1 machine may have them now" in text_of(await person.get(f"{page}/recall"))
    form = {"when": "in", "amount": "3", "unit": "days", "reason": "The licence changed."}
    said = await text_after_redirect(person, await person.post(f"{page}/recall", data=form))
    assert "May have the weights 1 machine" in said
    assert "Borg , version 1.0.0: not confirmed yet" in said
    assert "1 machine has not confirmed since 20" in said
    assert "not confirmed yet" in await text_after_redirect(person, await person.post(f"{page}/recall/cancel"))
    [close] = re.findall(r'action="([^"]*/weight-deletions/[0-9a-f-]+/close)"', (await person.get(page)).text)
    said = await text_after_redirect(person, await person.post(close))
    assert "No longer waiting for this machine." in said
    assert "not confirmed" not in said


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"when": "in", "amount": "3", "reason": ""}, "A recall needs a reason"),
        ({"when": "in", "amount": "soon", "reason": "x"}, "amount must be a whole number"),
        ({"when": "in", "amount": "", "reason": "x"}, "Enter a number of"),
        ({"when": "in", "amount": "0", "reason": "x"}, "Enter a number of"),
        ({"when": "at", "at": "tomorrow", "reason": "x"}, "Enter the date and time"),
        ({"when": "at", "at": "2020-01-31T12:00", "reason": "x"}, "That time has passed"),
        ({"when": "in", "amount": "9999999999", "reason": "x"}, "deadline"),
    ],
)
async def test_a_recall_that_does_not_fit_is_none(
    owner: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str, form: dict[str, str], words: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "public"})
    assert words in text_of(await person.post(f"{page}/recall", data=form), 400)
    assert (await footprint(owner, model))["is_shared"]


async def test_it_asks_before_a_targeted_model_shows_to_everybody(
    owner: Tenant, deployer: Tenant, person: httpx.AsyncClient, model: uuid.UUID, page: str
) -> None:
    await person.post(f"{page}/share", data={"audience": "projects", "projects": "borg"})
    asked = text_of(await person.post(f"{page}/share", data={"audience": "public"}))
    assert "Share tiny with everyone?" in asked
    assert (await footprint(owner, model))["audience"] == "targeted"
    await text_after_redirect(person, await person.post(f"{page}/share", data={"audience": "public", "sure": "yes"}))
    assert (await footprint(owner, model))["audience"] == "public"
