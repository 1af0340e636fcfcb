"""The page of a project's audit log."""

import re
from html import unescape

import httpx
import pytest

from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application
from page_texts import lines
from served import wait_until
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
LOG = "/dashboard/labs/audit"


def rows(answer: httpx.Response) -> list[str]:
    """What the log says, the newest entry first."""
    return [lines(httpx.Response(200, text=row)) for row in answer.text.split("<tr>")[2:]]


async def new_key(somebody: Somebody, name: str) -> str:
    answer = await somebody.post("/dashboard/labs/keys/new", name=name)
    found = re.search(r"ms_labs_[\w-]{43}", answer.text)
    assert found, answer.text
    return found[0]


async def project_id(app: Application, key: str) -> str:
    caller = await app.platform.authenticate(key, "127.0.0.1")
    assert caller
    return caller.project


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("running_app")
async def test_who_did_what(app: Application, colleague: Somebody, project: str) -> None:
    async with client_of(app, await new_key(colleague, "<i>website")) as http:
        key = (await http.get("/v1/keys")).json()["data"][0]["id"]
        await http.post("/v1/keys", json={"name": "second"})
    log = await colleague.get(LOG)
    assert "<i>" not in log.text
    found = rows(log)
    assert "key <i>website Create key: second key.create · its log" in found[0]
    assert "Ben Create key: <i>website key.create · its log" in found[1]
    assert "Ben Add member: Ben member.add · its log role owner" in found[2]
    assert "Ben Create project: labs project.create" in found[3]
    assert 'href="/dashboard/labs/keys"><bdi>second' in log.text
    await colleague.post(f"/dashboard/labs/keys/{key}/revoke")

    async def confirmed() -> httpx.Response | None:
        answer = await colleague.get(LOG)
        return answer if "everywhere after" in answer.text else None

    newest = rows(await wait_until(confirmed))[0]
    assert re.search(
        r"Revoke key: <i>website key\.revoke · its log everywhere after [\d,]+ ms p-[0-9a-f]{8} after [\d,]+ ms", newest
    )


async def test_models_are_linked_while_they_are_there(app: Application, colleague: Somebody, project: str) -> None:
    key = await new_key(colleague, "k")
    model = await make_model(app, await project_id(app, key), name="tiny")
    async with client_of(app, key) as http:
        assert (await http.post(f"/v1/models/{model}/share")).status_code == 200
        log = await colleague.get(LOG)
        assert f'href="/dashboard/labs/models/{model}"><bdi>tiny' in log.text
        assert "key k Share model: tiny model.share · its log role deployable · audience public" in rows(log)[0]
        await http.delete(f"/v1/models/{model}")
    log = await colleague.get(LOG)
    assert "Delete model: tiny" in rows(log)[0]
    assert f"/dashboard/labs/models/{model}" not in log.text


async def test_what_was_refused_is_marked(app: Application, colleague: Somebody, project: str) -> None:
    absent = "018f0000-0000-7000-8000-000000000000"
    async with client_of(app, await new_key(colleague, "k")) as http:
        refused = await http.post(f"/v1/models/{absent}/share")
    assert refused.status_code == 400
    newest = rows(await colleague.get(LOG))[0]
    assert "key k refused Share model: 018f0000…0000 model.share" in newest
    assert refused.json()["error"]["message"] in newest


@ON_BOTH_DATABASES
async def test_pages(colleague: Somebody, project: str) -> None:
    first = await colleague.get(f"{LOG}?limit=1")
    older = re.search(r'href="\?after=([^"]+)"', first.text)
    assert older
    second = await colleague.get(f"{LOG}?limit=1&after={older[1]}")
    assert [len(rows(page)) for page in (first, second)] == [1, 1]
    assert rows(first) != rows(second)
    assert (await colleague.get(f"{LOG}?after=nonsense")).status_code == 400


@ON_BOTH_DATABASES
async def test_the_log_is_narrowed(app: Application, colleague: Somebody, project: str) -> None:
    async with client_of(app, await new_key(colleague, "first")) as http:
        for name in ("second", "third"):
            await http.post("/v1/keys", json={"name": name})
    shown = await colleague.get(f"{LOG}?action=key&outcome=done&actor=&target=&limit=2")
    assert [row.count("Create key") for row in rows(shown)] == [1, 1]
    assert '<option value="key" selected>' in shown.text
    assert '<option value="done" selected>' in shown.text
    older = re.search(r'href="(\?action=key&amp;outcome=done&amp;after=[^"]+)"', shown.text)
    assert older
    assert ["Create key: first" in row for row in rows(await colleague.get(LOG + unescape(older[1])))] == [True]
    by = re.search(r'href="(\?[^"]*actor=key[^"]+)"', shown.text)
    assert by
    narrower = await colleague.get(LOG + unescape(by[1]))
    assert ["Create key: third" in rows(narrower)[0], len(rows(narrower))] == [True, 2]
    exact = await colleague.get(f"{LOG}?action=member.add")
    assert len(rows(exact)) == 1
    assert '<option value="member.add" selected>Add member</option>' in exact.text
    nothing = await colleague.get(f"{LOG}?action=webhook")
    assert "No entries match. Show the whole log" in lines(nothing)
    assert (await colleague.get(f"{LOG}?action=Nonsense!")).status_code == 400


async def test_nothing_of_another_project(colleague: Somebody, project: str, owner: Tenant) -> None:
    await owner.http.post("/v1/keys", json={"name": "a secret name"})
    assert "a secret name" not in (await colleague.get(LOG)).text


async def test_who_may_not(browser: httpx.AsyncClient, stranger: Somebody, member: Somebody, project: str) -> None:
    assert (await browser.get(LOG)).headers["location"] == f"/sign-in?next={LOG}"
    assert (await stranger.get(LOG)).status_code == 404
    assert (await member.get(LOG)).status_code == 403
