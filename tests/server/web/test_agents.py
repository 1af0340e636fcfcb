"""The pages of a project's machines and join keys."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from factories import make_model
from modelshare.server.app import Application
from modelshare.wire.agents import Phase
from page_texts import lines, message
from served import serving
from server.web.conftest import ON_BOTH_DATABASES, Somebody
from server.web.machines import join, join_key_in, live, machine

pytestmark = pytest.mark.anyio
PAGE = "/dashboard/labs/agents"
KEYS = f"{PAGE}/join-keys"


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


async def test_a_join_key_is_shown_once_in_the_whole_command(colleague: Somebody, project: str) -> None:
    assert "Add your first machine" in lines(await colleague.get(PAGE))
    made = await colleague.post(KEYS, name="<b>ws", expires_in="3600")
    key = join_key_in(made)
    assert f"MODELSHARE_JOIN_KEY={key} modelshare agent --url http://modelshare.test" in lines(made)
    assert made.headers["cache-control"] == "no-store"
    listed = await colleague.get(PAGE)
    assert key not in listed.text
    assert "&lt;b&gt;ws" in listed.text
    assert "valid expires in" in lines(listed)


async def test_in_place_the_command_and_the_list_come_alone(colleague: Somebody, project: str) -> None:
    answer = await colleague.http.post(KEYS, data={"name": "ws"}, headers={"HX-Request": "true"})
    assert answer.headers["hx-retarget"] == "#once"
    assert join_key_in(answer)
    assert "<html" not in answer.text
    assert 'id="join-keys" hx-swap-oob="innerHTML"' in answer.text
    assert "valid never expires" in lines(answer)


async def test_a_revoked_key_lets_nobody_join(colleague: Somebody, project: str) -> None:
    key = join_key_in(await colleague.post(KEYS, name="ws"))
    [key_id] = re.findall(r"join-keys/([0-9a-f-]{36})/revoke", (await colleague.get(PAGE)).text)
    assert "Machines that have enrolled stay." in lines(await colleague.get(f"{KEYS}/{key_id}/revoke"))
    assert (await colleague.post(f"{KEYS}/{key_id}/revoke")).headers["location"] == PAGE
    assert "ws just now revoked" in lines(await colleague.get(PAGE))
    answer = await colleague.http.post("/v1/enroll", json={"join_key": key, "name": "box"})
    assert answer.status_code == 401


async def test_bad_input(colleague: Somebody, project: str) -> None:
    agent_id, _ = await join(colleague, project)
    for form in (
        {"name": ""},
        {"name": "x" * 101},
        {"name": "x", "expires_in": "soon"},
        {"name": "x", "expires_in": "0"},
    ):
        answer = await colleague.post(KEYS, **form)
        assert answer.status_code == 400, form
        assert message(answer)
    assert (
        await colleague.post(f"{PAGE}/{agent_id}/rename", name=" ")
    ).status_code == 303  # nothing sent, nothing done
    assert (await colleague.post(f"{PAGE}/{agent_id}/rename", name="x" * 101)).status_code == 400
    assert (await colleague.get(f"{PAGE}/nothing/rename")).status_code == 404


@ON_BOTH_DATABASES
async def test_what_a_machine_is_and_does_comes_live(
    app: Application, url: str, colleague: Somebody, project: str
) -> None:
    owner = await app.platform.authenticate_person(colleague.http.cookies["modelshare_session"], project)
    await make_model(app, owner.project)
    spec = {"model": "labs/tiny", "tier": "self_hosted", "slug": "chat"}
    assert (await colleague.post("/dashboard/labs/endpoints/new", **spec)).status_code == 303
    async with live(colleague, url, f"{PAGE}/events") as part:
        await part.until("Add your first machine")
        async with machine(colleague, project, url) as agent:
            html = await part.until("connected</span>")
            assert all(words in html for words in ("<bdi>box</bdi>", "llamacpp", "17.2 GB", "1.1 TB", "0.1.0"))
            [wanted] = await agent.wanted()
            await agent.report(wanted.deployment_id, Phase.PULLING, bytes_done=250, bytes_total=1000)
            assert "labs/tiny" in await part.until("250 B of 1 kB (25 %)")
            await agent.make_ready()
            await part.until("ready</span>")
        await part.until("disconnected</span>")


async def test_a_machine_is_renamed_suspended_resumed_and_removed(colleague: Somebody, project: str) -> None:
    agent_id, token = await join(colleague, project)
    assert "box pending" in lines(await colleague.get(PAGE))
    assert (await colleague.post(f"{PAGE}/{agent_id}/rename", name="<i>desk")).headers["location"] == PAGE
    assert "&lt;i&gt;desk" in (await colleague.get(PAGE)).text
    assert "stops serving immediately" in lines(await colleague.get(f"{PAGE}/{agent_id}/suspend"))
    assert (await colleague.post(f"{PAGE}/{agent_id}/suspend")).status_code == 303
    suspended = await colleague.get(PAGE)
    assert "suspended" in lines(suspended)
    assert f"{PAGE}/{agent_id}/resume" in suspended.text
    assert (await colleague.post(f"{PAGE}/{agent_id}/resume")).status_code == 303
    assert "It has enrolled but not connected yet." in lines(await colleague.get(PAGE))
    assert "To enrol again, it needs a new join key." in lines(await colleague.get(f"{PAGE}/{agent_id}/remove"))
    assert (await colleague.post(f"{PAGE}/{agent_id}/remove")).status_code == 303
    assert "Add your first machine" in lines(await colleague.get(PAGE))
    grant = await colleague.http.post("/v1/agent/deployments/x/grant", headers={"Authorization": f"Bearer {token}"})
    assert grant.status_code == 401


async def test_a_machine_that_holds_files_runs_nothing(colleague: Somebody, project: str) -> None:
    made = await colleague.post(KEYS, name="laptop")
    body = {"join_key": join_key_in(made), "name": "laptop", "is_holder": True}
    agent_id = (await colleague.http.post("/v1/enroll", json=body)).json()["agent_id"]
    listed = lines(await colleague.get(PAGE))
    assert "files of models that stay on this machine" in listed
    assert "No models." not in listed
    for page in ("remove", "suspend"):
        assert "Nothing on it is deleted" in lines(await colleague.get(f"{PAGE}/{agent_id}/{page}"))


async def test_nothing_for_others(
    colleague: Somebody, project: str, stranger: Somebody, browser: httpx.AsyncClient
) -> None:
    agent_id, _ = await join(colleague, project)
    one = f"/{agent_id}"
    pages = ("", "/events", f"{one}/rename", f"{one}/suspend", f"{one}/remove", f"/join-keys/{agent_id}/revoke")
    for path in pages:
        assert (await stranger.get(PAGE + path)).status_code == 404, path
        assert (await browser.get(PAGE + path)).headers["location"].startswith("/sign-in?next="), path
    actions = (f"{one}/rename", f"{one}/suspend", f"{one}/resume", f"{one}/remove", "/join-keys")
    for path in actions:
        assert (await stranger.post(PAGE + path, name="mine")).status_code == 404, path
    assert (await stranger.post("/dashboard/-/new", name="Two", slug="two")).status_code == 303
    for path in actions[:-1]:
        assert (await stranger.post(f"/dashboard/two/agents{path}", name="mine")).status_code == 404, path
    assert "box pending" in lines(await colleague.get(PAGE))


async def test_a_member_may_do_the_same(member: Somebody, project: str) -> None:
    agent_id, _ = await join(member, project)
    assert (await member.post(f"{PAGE}/{agent_id}/remove")).status_code == 303
