"""The page of usage, and of who deploys one's models."""

import datetime as dt
import html
import re
import uuid
from typing import Any

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.endpoints.tables import UsageRow
from modelshare.wire.keys import Key
from page_texts import lines
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
PAGE = "/dashboard/acme/usage"


async def use(
    app: Application, tenant: Tenant, model: uuid.UUID, key: uuid.UUID, *, days_ago: int, slug: str, **fields: Any
) -> None:
    """30 requests of 100 and 200 tokens."""
    day = dt.datetime.fromtimestamp(app.platform.now(), dt.UTC).date() - dt.timedelta(days_ago)
    async with app.database.write() as session:
        session.add(
            UsageRow(
                day=day.isoformat(),
                endpoint_id=uuid.uuid4(),
                key_id=key,
                project_id=tenant.project.id,
                endpoint_slug=slug,
                model_id=model,
                requests=30,
                errors=2,
                prompt_tokens=100,
                completion_tokens=200,
                **fields,
            )
        )


async def first_key(tenant: Tenant) -> Key:
    return Key.model_validate((await tenant.http.get("/v1/keys")).json()["data"][0])


async def person_id(app: Application, somebody: Somebody) -> uuid.UUID:
    caller = await app.platform.authenticate_person(somebody.http.cookies["modelshare_session"], "acme")
    assert caller.person_id
    return caller.person_id


async def test_nothing_yet(owner: Tenant, person: Somebody) -> None:
    words = lines(await person.get(PAGE))
    assert "Requests by day None yet." in words
    assert "Nothing in these 30 days." in words
    assert "You share no model yet." in words
    assert "Prompts and answers are never stored" in words


@ON_BOTH_DATABASES
async def test_days_names_and_people(app: Application, owner: Tenant, person: Somebody) -> None:
    model, key = await make_model(app, owner.project.id), await first_key(owner)
    await use(app, owner, model, uuid.UUID(key.id), days_ago=0, slug="chat")
    await use(app, owner, model, uuid.UUID(key.id), days_ago=6, slug="chat")
    await use(app, owner, uuid.uuid4(), await person_id(app, person), days_ago=7, slug="<b>")
    await use(app, owner, model, uuid.uuid4(), days_ago=30, slug="old")
    week, month, quarter = [await person.get(f"{PAGE}?days={days}") for days in (7, 30, 90)]
    assert "Requests by day: 60 in all" in week.text
    assert "Tokens by day: 600 in all" in week.text
    assert "chat 60 4 200 400" in lines(week)
    assert "acme/tiny 60 4 200 400" in lines(week)
    assert f"{key.name} 60 4 200 400" in lines(week)
    assert "Ada person" not in lines(week)
    assert "Ada person 30 2 100 200" in lines(month)
    assert "&lt;b&gt;" in month.text
    assert "Requests by day: 90 in all" in month.text
    assert "Requests by day: 120 in all" in quarter.text
    assert quarter.text.count('<rect class="bar"') == 180
    today = dt.datetime.fromtimestamp(app.platform.now(), dt.UTC).date()
    assert f"{today} 30 {today - dt.timedelta(1)} 0" in lines(week)


async def test_what_is_estimated_is_marked(app: Application, owner: Tenant, person: Somebody) -> None:
    await use(app, owner, uuid.uuid4(), uuid.uuid4(), days_ago=0, slug="chat")
    await use(app, owner, uuid.uuid4(), uuid.uuid4(), days_ago=0, slug="guessed", estimated=1)
    words = lines(await person.get(PAGE))
    assert "chat 30 2 100 200" in words
    assert "guessed 30 2 ~ 100 ~ 200" in words


async def test_costs_are_shown_once_there_are_some(app: Application, owner: Tenant, person: Somebody) -> None:
    await use(app, owner, uuid.uuid4(), uuid.uuid4(), days_ago=0, slug="chat")
    assert "Cost" not in lines(await person.get(PAGE))
    await use(app, owner, uuid.uuid4(), uuid.uuid4(), days_ago=0, slug="dear", tier="free", cost_micros=1_204_500_000)
    words = lines(await person.get(PAGE))
    assert "chat 30 2 100 200 0.00" in words
    assert "dear 30 2 100 200 1,204.50" in words
    assert "By tier Tier Requests Errors Prompt tokens Answer tokens Cost" in words
    assert "free 30 2 100 200 1,204.50" in words
    assert "unknown 30 2 100 200 0.00" in words


async def test_the_page_leads_to_files_of_its_period(app: Application, owner: Tenant, person: Somebody) -> None:
    await use(app, owner, uuid.uuid4(), uuid.uuid4(), days_ago=6, slug="chat")
    await use(app, owner, uuid.uuid4(), uuid.uuid4(), days_ago=7, slug="older")
    found = re.findall(r'href="(/proj_[^"]+/usage/export[^"]+)"', (await person.get(f"{PAGE}?days=7")).text)
    table, rows = [await person.get(html.unescape(each)) for each in found]
    assert (table.status_code, table.text.count("\r\n")) == (200, 2)
    assert [row["endpoint"] for row in rows.json()] == ["chat"]


async def test_another_projects_usage_is_not_counted(
    app: Application, owner: Tenant, deployer: Tenant, person: Somebody
) -> None:
    await use(app, deployer, uuid.uuid4(), uuid.uuid4(), days_ago=0, slug="theirs")
    assert "theirs" not in lines(await person.get(PAGE))
    assert "theirs 30 2" in lines(await person.get("/dashboard/borg/usage"))


@ON_BOTH_DATABASES
async def test_who_deploys_my_models(app: Application, owner: Tenant, deployer: Tenant, person: Somebody) -> None:
    model = await make_model(app, owner.project.id)
    await make_model(app, owner.project.id, name="unshared")
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    assert "tiny public nobody 0 0" in lines(await person.get(PAGE))
    for slug in ("one", "two"):
        spec = {"slug": slug, "model": str(model), "tier": "self_hosted"}
        assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    await use(app, deployer, model, uuid.uuid4(), days_ago=200, slug="one")
    words = lines(await person.get(PAGE))
    assert "tiny public Borg (2 endpoints) 2 300" in words
    assert "unshared" not in words
    assert (await owner.http.post(f"/v1/models/{model}/unshare")).status_code == 200
    assert "tiny no Borg (2 endpoints) 2 300" in lines(await person.get(PAGE))


async def test_bad_input(owner: Tenant, person: Somebody) -> None:
    assert (await person.get(f"{PAGE}?days=1000000")).status_code == 400
    assert (await person.get(f"{PAGE}?after=rubbish")).status_code == 400


async def test_nothing_for_others(owner: Tenant, stranger: Somebody, browser: httpx.AsyncClient) -> None:
    assert (await stranger.get(PAGE)).status_code == 404
    assert (await browser.get(PAGE)).headers["location"].startswith("/sign-in?next=")


async def test_a_member_sees_it(member: Somebody) -> None:
    assert "Deployments of my models" in lines(await member.get("/dashboard/labs/usage"))
