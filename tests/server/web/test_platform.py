"""The pages of who runs the platform."""

import re
import uuid

import httpx
import pytest

from conftest import Tenant, client_of
from factories import make_model
from modelshare import __version__
from modelshare.server.app import Application
from modelshare.server.audit.tables import ProcessRow
from modelshare.server.db import now_ms
from modelshare.server.jobs import GivenUpRow
from page_texts import lines, message
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
PLATFORM = "/dashboard/-/platform"
PAGES = ("", "/projects", "/projects/new", "/people", "/agents", "/agents/join", "/tiers", "/featured", "/audit")


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("running_app")
async def test_health(person: Somebody, owner: Tenant, app: Application) -> None:
    await make_model(app, owner.project.id)
    answer = lines(await person.get(PLATFORM))
    assert "Projects 1 Users 1 Models 1 Shared models 0 Active endpoints 0 Agents connected 0" in answer
    assert f"reachable {'SQLite' if app.database.is_sqlite else 'PostgreSQL'}, answered in" in answer
    assert "in a folder on this machine" in answer
    assert re.search(
        rf"Last heartbeat p-[0-9a-f]{{8}} http://127\.0\.0\.1:8000 {re.escape(__version__)} just now just now", answer
    )
    assert "no events queued; no address failing" in answer
    assert "No jobs are waiting." in answer
    assert "Processes run different versions" not in answer


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("running_app")
@pytest.mark.parametrize(("version", "shown"), [("0.0.9", "0.0.9"), (None, "older")])
async def test_an_upgrade_that_is_under_way(
    person: Somebody, app: Application, version: str | None, shown: str
) -> None:
    async with app.database.write() as session:
        now = now_ms(session)
        session.add(ProcessRow(name="p-0", address="http://p-0:8000", version=version, started_ms=now, seen_ms=now))
    answer = lines(await person.get(PLATFORM))
    assert f"p-0 http://p-0:8000 {shown} " in answer
    assert "Processes run different versions" in answer


async def gave_up(app: Application, subject: str, ago: int = 7) -> uuid.UUID:
    at = app.platform.now() - ago
    async with app.database.write() as session:
        row = GivenUpRow(kind="no.such_kind", subject=subject, attempts=5, error="OSError: <no disk>", given_up_at=at)
        session.add(row)
        await session.flush()
        return row.id


async def test_a_job_that_was_given_up_is_seen_and_run_once_more(
    person: Somebody, colleague: Somebody, app: Application, operator: httpx.AsyncClient, owner: Tenant
) -> None:
    assert "Failed jobs" not in lines(await person.get(PLATFORM))
    job = await gave_up(app, "thing-1")
    assert "no.such_kind thing-1" in lines(await person.get(PLATFORM))
    assert "OSError: <no disk>" in lines(await person.get(PLATFORM))
    for somebody in (owner.http, colleague.http):
        assert (await somebody.get("/v1/platform/jobs")).status_code in {401, 403}
        assert (await somebody.post(f"/v1/platform/jobs/{job}/retry")).status_code in {401, 403}
    assert (await colleague.post(f"{PLATFORM}/jobs/{job}/retry")).status_code == 404
    [told] = (await operator.get("/v1/platform/jobs")).json()["data"]
    assert (told["id"], told["kind"], told["attempts"]) == (str(job), "no.such_kind", 5)

    assert (await person.post(f"{PLATFORM}/jobs/{job}/retry")).headers["location"] == PLATFORM
    said = lines(await person.get(PLATFORM))
    assert "Failed jobs" not in said
    assert "no.such_kind 1 0" in said, "it waits"
    assert "Job run again: " in lines(await person.get(f"{PLATFORM}/audit"))
    assert (await operator.post(f"/v1/platform/jobs/{job}/retry")).status_code == 404


@ON_BOTH_DATABASES
async def test_given_up_jobs_come_page_by_page(app: Application, operator: httpx.AsyncClient) -> None:
    for number in range(5):
        await gave_up(app, f"thing-{number}", ago=100 - number // 2 * 10)
    seen, after = [], ""
    while after is not None:
        page = (await operator.get(f"/v1/platform/jobs?limit=2{after and f'&after={after}'}")).json()
        seen += [job["subject"] for job in page["data"]]
        after = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 5
    assert seen[0] == "thing-4"
    assert {*seen[1:3]} == {"thing-2", "thing-3"}
    assert (await operator.get("/v1/platform/jobs?after=rubbish")).status_code == 400


async def test_a_project_is_made_for_somebody(person: Somebody, app: Application) -> None:
    form = {"name": "Acme <b>", "slug": "acme", "quota_gb": "5"}
    made = await person.post(f"{PLATFORM}/projects/new", **form)
    key = re.search(r"ms_acme_[\w-]{43}", made.text)
    assert key
    async with client_of(app, key[0]) as http:
        assert (await http.get("/v1/models")).status_code == 200
    listed = await person.get(f"{PLATFORM}/projects")
    assert "Acme <b> acme proj_" in lines(listed)
    assert " 5 GB " in lines(listed)
    assert key[0] not in listed.text
    assert 'href="/dashboard/acme/models"' in listed.text
    assert (await person.get("/dashboard/acme/keys")).status_code == 200
    taken = await person.post(f"{PLATFORM}/projects/new", **form)
    assert (taken.status_code, "already" in message(taken)) == (409, True)
    for wrong in ({"slug": "No Slug"}, {"name": ""}, {"quota_gb": "-1"}, {"quota_gb": "many"}):
        assert (await person.post(f"{PLATFORM}/projects/new", **{**form, **wrong})).status_code == 400


async def test_a_quota_is_changed(person: Somebody, owner: Tenant) -> None:
    page = f"{PLATFORM}/projects/{owner.project.id}/quota"
    assert f'href="{page}"' in (await person.get(f"{PLATFORM}/projects")).text
    assert 'value=""' in (await person.get(page)).text
    saved = await person.post(page, quota_gb="0.000000005")
    assert saved.headers["location"] == f"{PLATFORM}/projects"
    assert f"{owner.project.name} may store 5 B." in lines(await person.get(f"{PLATFORM}/projects"))
    assert 'value="0.000000005"' in (await person.get(page)).text
    await person.post(page, quota_gb="1500")
    assert 'value="1500"' in (await person.get(page)).text
    push = {"name": "big", "files": [{"path": "model.gguf", "size": 1}]}
    await person.post(page, quota_gb="0")
    assert (await owner.http.post("/v1/uploads", json=push)).status_code == 403
    for wrong in ("-1", "many", "1e3", "1" * 20):
        refused = await person.post(page, quota_gb=wrong)
        assert (refused.status_code, "such as 80 or 1.5" in message(refused)) == (400, True)
    await person.post(page, quota_gb="")
    assert "may store the platform's default, 550 GB." in lines(await person.get(f"{PLATFORM}/projects"))
    assert (await owner.http.post("/v1/uploads", json=push)).status_code == 201
    log = lines(await person.get(f"/dashboard/{owner.project.slug}/audit?action=project.change_quota"))
    changed = "quota the platform's default · quota before 0 B"
    assert f"Ada Change quota of project: acme project.change_quota · its log {changed}" in log
    nothing = f"{PLATFORM}/projects/proj_000000000000/quota"
    for answer in (await person.get(nothing), await person.post(nothing, quota_gb="1")):
        assert (answer.status_code, message(answer)) == (404, "There is no such project.")


@ON_BOTH_DATABASES
async def test_pages_of_projects(person: Somebody, owner: Tenant, deployer: Tenant) -> None:
    first = await person.get(f"{PLATFORM}/projects?limit=1")
    newer = re.search(r'href="\?after=([^"]+)"', first.text)
    assert newer
    second = await person.get(f"{PLATFORM}/projects?limit=1&after={newer[1]}")
    found = {slug for page in (first, second) for slug in ("acme", "borg") if f"/dashboard/{slug}/models" in page.text}
    assert found == {"acme", "borg"}


async def ids(person: Somebody) -> dict[str, str]:
    rows = (await person.get(f"{PLATFORM}/people")).text.split("<tr>")
    return {
        email[1]: link[1]
        for row in rows
        if (email := re.search(r"<bdi>([\w.]+@[\w.]+)</bdi>", row))
        and (link := re.search(r"people/([0-9a-f-]{36})/admin", row))
    }


async def test_admins_are_made_and_taken_back(person: Somebody, colleague: Somebody) -> None:
    known = await ids(person)
    last = await person.post(f"{PLATFORM}/people/{known[person.email]}/admin", admin="false")
    assert (last.status_code, "this is the last one" in message(last)) == (409, True)
    assert (await colleague.get(PLATFORM)).status_code == 404
    made = await person.post(f"{PLATFORM}/people/{known[colleague.email]}/admin", admin="true")
    assert made.headers["location"] == f"{PLATFORM}/people"
    assert "Ben is now an admin." in lines(await person.get(f"{PLATFORM}/people"))
    assert (await colleague.get(PLATFORM)).status_code == 200
    left = await person.post(f"{PLATFORM}/people/{known[person.email]}/admin", admin="false")
    assert left.headers["location"] == "/dashboard"
    assert (await person.get(PLATFORM)).status_code == 404
    nobody = await colleague.post(f"{PLATFORM}/people/{uuid.uuid4()}/admin", admin="true")
    assert nobody.status_code == 404
    log = lines(await colleague.get(f"{PLATFORM}/audit"))
    assert "Ada Change platform admin: Ada person.set_admin · its log is admin no" in log
    narrowed = lines(await colleague.get(f"{PLATFORM}/audit?action=person.set_admin"))
    assert ("person.set_admin" in narrowed, "person.sign_up" in narrowed) == (True, False)


async def test_a_join_key_and_its_agent(person: Somebody, anonymous: httpx.AsyncClient) -> None:
    assert "No shared agent" in (await person.get(f"{PLATFORM}/agents")).text
    form = {"name": "rack 4", "tiers": ["free", "gpu_nvidia_shared"], "expires_in": ""}
    made = await person.post(f"{PLATFORM}/agents/join", **form)
    key = re.search(r"MODELSHARE_JOIN_KEY=(msj_[\w-]{43})", made.text)
    assert key
    assert f"MODELSHARE_JOIN_KEY={key[1]} modelshare agent --url http://modelshare.test" in lines(made)
    enrolled = await anonymous.post("/v1/enroll", json={"join_key": key[1], "name": "box <1>"})
    agent = enrolled.json()["agent_id"]
    shown = await person.get(f"{PLATFORM}/agents")
    assert key[1] not in shown.text
    assert "box <1> pending free gpu_nvidia_shared cpu" in lines(shown)
    assert "rack 4 free gpu_nvidia_shared active never expires" in lines(shown)
    assert "with their weights" in lines(await person.get(f"{PLATFORM}/agents/{agent}/suspend"))
    await person.post(f"{PLATFORM}/agents/{agent}/suspend")
    assert "box <1> suspended" in lines(await person.get(f"{PLATFORM}/agents"))
    await person.post(f"{PLATFORM}/agents/{agent}/suspend", suspended="false")
    assert "box <1> pending" in lines(await person.get(f"{PLATFORM}/agents"))
    assert "To enrol again, it needs a new join key" in lines(await person.get(f"{PLATFORM}/agents/{agent}/remove"))
    await person.post(f"{PLATFORM}/agents/{agent}/remove")
    assert "No shared agent" in (await person.get(f"{PLATFORM}/agents")).text
    revoke = re.search(r'action="([^"]+/revoke)"', (await person.get(f"{PLATFORM}/agents")).text)
    assert revoke
    answer = await person.post(revoke[1])
    assert answer.headers["location"] == f"{PLATFORM}/agents", answer.text
    refused = await anonymous.post("/v1/enroll", json={"join_key": key[1], "name": "box 2"})
    assert refused.status_code == 401
    assert "rack 4 free gpu_nvidia_shared revoked" in lines(await person.get(f"{PLATFORM}/agents"))


async def test_join_keys_name_shared_tiers(person: Somebody) -> None:
    form = await person.get(f"{PLATFORM}/agents/join")
    assert 'value="free"' in form.text
    assert 'value="self_hosted"' not in form.text
    for tiers in ([], ["self_hosted"], ["platinum"]):
        refused = await person.post(f"{PLATFORM}/agents/join", name="x", tiers=tiers, expires_in="3600")
        assert (refused.status_code, "shared tiers" in message(refused)) == (400, True)


async def test_a_projects_agent_is_not_among_them(
    person: Somebody, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    key = (await owner.http.post("/v1/join-keys", json={"name": "mine"})).json()["key"]
    agent = (await anonymous.post("/v1/enroll", json={"join_key": key, "name": "box"})).json()["agent_id"]
    for step in ("suspend", "remove"):
        assert (await person.get(f"{PLATFORM}/agents/{agent}/{step}")).status_code == 404
        assert (await person.post(f"{PLATFORM}/agents/{agent}/{step}")).status_code == 404


async def test_tiers(person: Somebody) -> None:
    answer = lines(await person.get(f"{PLATFORM}/tiers"))
    assert (
        "Free free free cpu 10,000 64 bursts of 50 % more 5 128 2,048 texts to embed 30 s 120 s 48 GB 0.00 yes"
        in answer
    )
    assert "Self-hosted self_hosted self hosted any no limit no limit 100" in answer
    assert "set tiers_file to it" in answer


async def test_featuring(person: Somebody, owner: Tenant, app: Application, anonymous: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id, name="tiny-chat")
    assert "No public models match." in lines(await person.get(f"{PLATFORM}/featured?q=tiny"))
    assert (await person.post(f"{PLATFORM}/featured/{model}", featured="true")).status_code == 404
    await owner.http.post(f"/v1/models/{model}/share")
    for query in ("tiny", str(model)):
        assert "acme/tiny-chat 0 Feature" in lines(await person.get(f"{PLATFORM}/featured?q={query}"))
    await person.post(f"{PLATFORM}/featured/{model}", featured="true")
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).json()["featured"] is True
    assert "acme/tiny-chat 0 Stop featuring" in lines(await person.get(f"{PLATFORM}/featured"))
    await person.post(f"{PLATFORM}/featured/{model}", featured="false")
    assert "No model is featured." in lines(await person.get(f"{PLATFORM}/featured"))


@pytest.mark.parametrize("page", PAGES)
async def test_for_admins_alone(browser: httpx.AsyncClient, colleague: Somebody, page: str) -> None:
    assert (await browser.get(PLATFORM + page)).headers["location"] == f"/sign-in?next={PLATFORM}{page}"
    refused = await colleague.get(PLATFORM + page)
    assert (refused.status_code, message(refused)) == (404, "There is no such page.")


async def test_nobody_else_changes_anything(browser: httpx.AsyncClient, colleague: Somebody, person: Somebody) -> None:
    known = (await ids(person))[colleague.email]
    some = uuid.uuid4()
    for path, form in (
        ("/projects/new", {"name": "x", "slug": "x"}),
        ("/projects/proj_000000000000/quota", {"quota_gb": "1"}),
        (f"/people/{known}/admin", {"admin": "true"}),
        ("/agents/join", {"name": "x", "tiers": "free"}),
        (f"/agents/join/{some}/revoke", {}),
        (f"/agents/{some}/suspend", {}),
        (f"/agents/{some}/remove", {}),
        (f"/featured/{some}", {"featured": "true"}),
    ):
        assert (await browser.post(PLATFORM + path, data=form)).headers["location"].startswith("/sign-in")
        assert message(await colleague.post(PLATFORM + path, **form)) == "There is no such page."
