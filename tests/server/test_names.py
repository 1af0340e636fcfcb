"""Whatever people name: no name holds what steers a terminal or makes it read as another one."""

import json

import httpx
import pytest
from sqlalchemy import update

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.fleet.tables import AgentRow
from persons import browser_of, sign_up
from uploading import opening

pytestmark = pytest.mark.anyio
UNFIT = ["a\x1b[31mb", "a\nb", "\u202egnp.exe", "a\0b", "a\u2066b", "a\u200bb", "a\x9bb", "a\u2028b", "a\ud800b", "a\r"]


@pytest.mark.parametrize("unfit", UNFIT)
async def test_no_route_takes_an_unfit_name(
    app: Application, owner: Tenant, operator: httpx.AsyncClient, anonymous: httpx.AsyncClient, unfit: str
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    key = (await owner.http.post("/v1/join-keys", json={"name": "boxes"})).json()["key"]
    joined = await anonymous.post("/v1/enroll", json={"join_key": key, "name": "box"})
    agent = joined.json()["agent_id"]

    async def sent(http: httpx.AsyncClient, method: str, path: str, body: object) -> None:
        answer = await http.request(
            method, path, content=json.dumps(body), headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400, f"{method} {path} {body!r}: {answer.status_code} {answer.text}"
        assert "Traceback" not in answer.text

    await sent(operator, "POST", "/v1/platform/projects", {"name": unfit, "slug": "other"})
    await sent(operator, "POST", "/v1/platform/join-keys", {"name": unfit, "tiers": ["free"]})
    await sent(owner.http, "POST", "/v1/keys", {"name": unfit})
    await sent(owner.http, "POST", "/v1/join-keys", {"name": unfit})
    await sent(owner.http, "PATCH", f"/v1/agents/{agent}", {"name": unfit})
    for field in ("name", "display_name", "license"):
        await sent(owner.http, "PATCH", f"/v1/models/{model}", {field: unfit})
    await sent(owner.http, "PATCH", f"/v1/models/{model}", {"tags": ["fine", unfit]})
    await sent(owner.http, "POST", "/v1/uploads", opening({f"{unfit}.gguf": b"x"}))
    archive = {"filename": f"{unfit}.tar", "size": 10}
    await sent(owner.http, "POST", "/v1/uploads", {"name": "m", "archive": archive})
    await sent(anonymous, "POST", "/v1/enroll", {"join_key": key, "name": unfit})
    for field, value in (("accelerator", unfit), ("platform", unfit), ("agent_version", unfit), ("engines", [unfit])):
        await sent(anonymous, "POST", "/v1/enroll", {"join_key": key, "name": "b", "capabilities": {field: value}})
    if not set(unfit) <= set("ab\r\n\u200b"):
        for field in ("description", "card"):
            await sent(owner.http, "PATCH", f"/v1/models/{model}", {field: f"# Title\n{unfit}"})
        await sent(owner.http, "POST", f"/v1/models/{model}/recall", {"deadline": 4_000_000_000, "reason": unfit})
    assert [one["name"] for one in (await owner.http.get("/v1/agents")).json()["data"]] == ["box"]


async def test_names_on_pages(app: Application, owner: Tenant) -> None:
    async with browser_of(app, await sign_up(app, "ada", owner.project.id)) as http:
        for unfit in ("a\x1b[31mb", "a\nb", "\u202egnp.exe", "a\x85b"):
            for path, form in (
                ("/dashboard/-/new", {"name": unfit, "slug": "new"}),
                ("/dashboard/acme/keys/new", {"name": unfit}),
                ("/dashboard/acme/agents/join-keys", {"name": unfit}),
            ):
                answer = await http.post(path, data=form)
                assert answer.status_code == 400, f"{path} {unfit!r}: {answer.status_code}"


async def test_texts_have_several_lines(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    fields = {"description": "One.\nTwo.", "card": "# Title\r\n\n\tcode", "display_name": ""}
    answer = await owner.http.patch(f"/v1/models/{model}", json=fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["card"] == fields["card"]


async def test_what_an_older_release_took_is_still_listed(app: Application, owner: Tenant) -> None:
    key = (await owner.http.post("/v1/join-keys", json={"name": "boxes"})).json()["key"]
    await owner.http.post("/v1/enroll", json={"join_key": key, "name": "box"})
    async with app.database.write() as session:
        await session.execute(update(AgentRow).values(name="b\x1b[2Jox", capabilities={"engines": ["\u202ex"]}))
    [agent] = (await owner.http.get("/v1/agents")).json()["data"]
    assert (agent["name"], agent["capabilities"]["engines"]) == ("b\x1b[2Jox", ["\u202ex"])
