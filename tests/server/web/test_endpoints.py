"""The pages of a project's endpoints."""

import uuid
from collections.abc import AsyncIterator

import httpx
import pytest

from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from modelshare.wire.agents import Phase
from page_texts import lines, message
from served import serving, wait_until
from server.web.conftest import ON_BOTH_DATABASES, Somebody
from server.web.machines import live, machine

pytestmark = pytest.mark.anyio
PAGE = "/dashboard/labs/endpoints"


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


@pytest.fixture
async def model(app: Application, owner: Tenant) -> uuid.UUID:
    """`acme/tiny`, shared."""
    model_id = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model_id}/share")).status_code == 200
    return model_id


@pytest.fixture
async def chat(colleague: Somebody, project: str, model: uuid.UUID) -> str:
    """Slug of an endpoint of `labs`."""
    answer = await colleague.post(f"{PAGE}/new", model="acme/tiny", tier="self_hosted", slug="chat", version="latest")
    assert answer.headers["location"] == f"{PAGE}/chat", answer.text
    return "chat"


async def test_a_project_without_endpoints_is_led_to_the_catalog(colleague: Somebody, project: str) -> None:
    answer = await colleague.get(PAGE)
    assert "Find a model in the catalog" in lines(answer)


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("running_app")
async def test_an_endpoint_is_made_and_takes_the_models_name(
    colleague: Somebody, project: str, model: uuid.UUID
) -> None:
    made = await colleague.post(f"{PAGE}/new", model=str(model), tier="self_hosted")
    assert made.headers["location"] == f"{PAGE}/tiny"
    page = await colleague.get(f"{PAGE}/tiny")
    words = lines(page)
    assert "Endpoint tiny created." in words
    assert "acme/tiny" in words
    assert "/tiny/v1/chat/completions" in words
    assert "modelshare chat tiny" in words

    async def observed() -> bool:
        return "No agent of your project is connected." in lines(await colleague.get(PAGE))

    await wait_until(observed)


@pytest.mark.parametrize("by_id", [True, False])
async def test_the_choice_is_explained_before_it_is_made(
    colleague: Somebody, project: str, model: uuid.UUID, *, by_id: bool
) -> None:
    named = str(model) if by_id else "acme/tiny"
    for path in (f"{PAGE}/new", f"{PAGE}/-/explain"):
        good = await colleague.get(f"{path}?model={named}")
        assert "This is possible. The slug is tiny ." in lines(good)
        bad = await colleague.get(f"{path}?model={named}&tier=free")
        assert "it may be selected on self_hosted only" in lines(bad)
        assert "Choose the tier self_hosted and run your own agent" in lines(bad)
    assert 'value="acme/tiny"' in (await colleague.get(f"{PAGE}/new?model={named}")).text


async def test_what_others_do_not_share_does_not_exist(
    app: Application, owner: Tenant, colleague: Somebody, project: str
) -> None:
    secret = await make_model(app, owner.project.id, name="secret")
    for named in (str(secret), "acme/secret", "acme/nothing", "nobody/secret", "secret", str(uuid.uuid4()), "<b>/x"):
        answer = await colleague.http.get(f"{PAGE}/-/explain", params={"model": named})
        assert "There is no such model in your project or the catalog." in lines(answer)
        refused = await colleague.post(f"{PAGE}/new", model=named, tier="self_hosted")
        assert refused.status_code == 404
        assert message(refused).startswith("There is no such model in your project or the catalog.")
    assert "acme/secret" not in (await colleague.get(f"{PAGE}/new?model={secret}")).text


async def test_a_refusal_says_why_in_place(colleague: Somebody, project: str, model: uuid.UUID) -> None:
    spec = {"model": str(model), "tier": "free", "slug": "chat"}
    answer = await colleague.http.post(f"{PAGE}/new", data=spec, headers={"HX-Request": "true"})
    assert answer.status_code == 403
    assert "<html" not in answer.text
    assert "it may be selected on self_hosted only" in lines(answer)


async def test_bad_input(colleague: Somebody, chat: str) -> None:
    for spec in ({"slug": "Bad Slug"}, {"version": "new"}, {"model": ""}, {"tier": "none"}, {"slug": chat}):
        answer = await colleague.post(
            f"{PAGE}/new", **{"model": "acme/tiny", "tier": "self_hosted", "slug": "x"} | spec
        )
        assert answer.status_code in {400, 404, 409}, spec
        assert message(answer)
    assert (await colleague.post(f"{PAGE}/{chat}/change", tier="self_hosted", version="9.9.9")).status_code == 400
    assert (await colleague.get(f"{PAGE}/nothing")).status_code == 404
    assert (await colleague.get(f"{PAGE}?after=rubbish")).status_code == 400


async def test_an_endpoint_may_be_called_new(colleague: Somebody, project: str, model: uuid.UUID) -> None:
    made = await colleague.post(f"{PAGE}/new", model=str(model), tier="self_hosted", slug="new")
    assert made.headers["location"] == f"{PAGE}/-/new"
    assert "/new/v1" in lines(await colleague.get(f"{PAGE}/-/new"))
    assert f'href="{PAGE}/-/new"' in (await colleague.get(PAGE)).text
    assert "New endpoint" in lines(await colleague.get(f"{PAGE}/new"))


async def test_version_and_tier_are_changed(
    app: Application, owner: Tenant, colleague: Somebody, chat: str, model: uuid.UUID
) -> None:
    await add_version(app, model, "2.0.0")
    page = await colleague.get(f"{PAGE}/{chat}")
    assert '<option value="2.0.0">' in page.text
    answer = await colleague.post(f"{PAGE}/{chat}/change", tier="self_hosted", version="2.0.0")
    assert answer.headers["location"] == f"{PAGE}/{chat}"
    assert '<option value="2.0.0" selected>' in (await colleague.get(f"{PAGE}/{chat}")).text
    moved = await colleague.get(f"{PAGE}/{chat}/explain?tier=free")
    assert "it may be selected on self_hosted only" in lines(moved)
    refused = await colleague.post(f"{PAGE}/{chat}/change", tier="free", version="2.0.0")
    assert refused.status_code == 403
    shared = {"slug": "own", "model": str(model), "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=shared)).status_code == 201
    assert "This is possible." in lines(await colleague.get(f"{PAGE}/{chat}/explain?tier=free"))
    assert (await colleague.post(f"{PAGE}/{chat}/change", tier="free", version="2.0.0")).status_code == 303
    assert "The tier free runs on the platform" in lines(await colleague.get(f"{PAGE}/{chat}"))


async def test_what_is_not_shared_any_more_cannot_be_switched_on_again(
    owner: Tenant, colleague: Somebody, chat: str, model: uuid.UUID
) -> None:
    assert "You will not be able to activate it again" not in lines(await colleague.get(f"{PAGE}/{chat}/off"))
    assert (await owner.http.post(f"/v1/models/{model}/unshare")).status_code == 200
    assert "you cannot restore it" in lines(await colleague.get(f"{PAGE}/{chat}"))
    warned = lines(await colleague.get(f"{PAGE}/{chat}/off"))
    assert "You will not be able to activate it again." in warned
    assert "There is no such model in your project or the catalog." in warned
    assert (await colleague.post(f"{PAGE}/{chat}/off")).status_code == 303
    off = lines(await colleague.get(f"{PAGE}/{chat}"))
    assert "Status inactive" in off
    assert "It cannot be activated now." in off
    assert (await colleague.post(f"{PAGE}/{chat}/on")).status_code == 404
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    assert (await colleague.post(f"{PAGE}/{chat}/on")).status_code == 303
    assert "Status provisioning" in lines(await colleague.get(f"{PAGE}/{chat}"))


async def test_a_recall_is_told_on_every_page_of_endpoints(
    app: Application, owner: Tenant, colleague: Somebody, chat: str, model: uuid.UUID
) -> None:
    deadline = app.platform.now() + 3 * 24 * 3600 + 60
    recall = {"deadline": deadline, "reason": "<b>A licence</b> problem."}
    assert (await owner.http.post(f"/v1/models/{model}/recall", json=recall)).status_code == 200
    for path in (PAGE, f"{PAGE}/{chat}", f"{PAGE}/new", f"/dashboard/labs/playground?endpoint={chat}"):
        answer = await colleague.get(path)
        assert "&lt;b&gt;A licence&lt;/b&gt; problem." in answer.text, path
        assert "Recalled: chat" in lines(answer)
        assert "in 3 days" in lines(answer)
    assert "The model was recalled by its owner" in lines(await colleague.get(f"{PAGE}/{chat}/off"))


async def test_an_endpoint_is_deleted_after_it_was_asked(colleague: Somebody, chat: str) -> None:
    asked = lines(await colleague.get(f"{PAGE}/{chat}/delete"))
    assert "Delete chat ?" in asked or "Delete chat?" in asked
    answer = await colleague.post(f"{PAGE}/{chat}/delete")
    assert answer.headers["location"] == PAGE
    assert "Endpoint chat deleted." in lines(await colleague.get(PAGE))
    assert (await colleague.get(f"{PAGE}/{chat}")).status_code == 404


async def test_an_endpoint_whose_model_is_gone_can_only_be_deleted(
    owner: Tenant, colleague: Somebody, chat: str, model: uuid.UUID
) -> None:
    assert (await colleague.post(f"{PAGE}/{chat}/off")).status_code == 303
    assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 204
    words = lines(await colleague.get(f"{PAGE}/{chat}"))
    assert "The model was deleted by its owner." in words
    assert "Activate" not in words
    assert (await colleague.get(PAGE)).status_code == 200
    assert (await colleague.get(f"/dashboard/labs/playground?endpoint={chat}")).status_code == 200
    assert (await colleague.post(f"{PAGE}/{chat}/delete")).status_code == 303


@ON_BOTH_DATABASES
async def test_progress_and_status_come_live(url: str, colleague: Somebody, chat: str) -> None:
    async with machine(colleague, "labs", url) as agent:
        [wanted] = await agent.wanted()
        async with (
            live(colleague, url, f"{PAGE}/{chat}/events") as one,
            live(colleague, url, f"{PAGE}/-/events") as listed,
        ):
            await agent.report(wanted.deployment_id, Phase.PULLING, bytes_done=500, bytes_total=1000)
            for part in (one, listed):
                html = await part.until("500 B of 1 kB (50 %)")
                assert '<progress aria-label="Progress of chat"' in html
                assert 'max="1000" value="500"' in html
            await agent.report(wanted.deployment_id, Phase.FAILED, reason="<i>No memory.</i> Close something.")
            for part in (one, listed):
                assert "&lt;i&gt;No memory.&lt;/i&gt; Close something." in await part.until("failed</span>")
            await agent.make_ready()
            assert "box" in await one.until("It is ready.")
            await listed.until("Try it")
            assert (await colleague.post(f"{PAGE}/{chat}/delete")).status_code == 303
            await one.until("was deleted")
            await listed.until("No endpoints yet")


@ON_BOTH_DATABASES
@pytest.mark.parametrize("path", [f"{PAGE}/-/events", f"{PAGE}/chat/events", "/dashboard/labs/agents/events"])
async def test_who_signs_out_is_told_nothing_more(url: str, colleague: Somebody, chat: str, path: str) -> None:
    async with live(colleague, url, path) as part:
        await part.until("machine")
        assert (await colleague.post("/sign-out")).status_code == 303
        await part.ends()


PATHS = ("", "/new", "/-/explain", "/-/events", "/chat", "/chat/events", "/chat/off", "/chat/delete")
ACTIONS = ("/new", "/chat/change", "/chat/on", "/chat/off", "/chat/delete")
FORM = {"model": "acme/tiny", "tier": "self_hosted", "version": "latest", "slug": "other"}


async def test_nothing_for_others(stranger: Somebody, chat: str) -> None:
    for path in PATHS:
        assert (await stranger.get(PAGE + path)).status_code == 404, path
    for path in ACTIONS:
        assert (await stranger.post(PAGE + path, **FORM)).status_code == 404, path


async def test_who_is_not_signed_in_is_sent_there(browser: httpx.AsyncClient, chat: str) -> None:
    for path in PATHS:
        assert (await browser.get(PAGE + path)).headers["location"].startswith("/sign-in?next="), path


async def test_another_projects_endpoint_is_not_there(colleague: Somebody, chat: str) -> None:
    assert (await colleague.post("/dashboard/-/new", name="Two", slug="two")).status_code == 303
    assert (await colleague.get("/dashboard/two/endpoints/chat")).status_code == 404
    assert (await colleague.post("/dashboard/two/endpoints/chat/delete")).status_code == 404
    assert (await colleague.get(f"{PAGE}/chat")).status_code == 200


async def test_a_member_may_do_the_same(member: Somebody, chat: str) -> None:
    assert (await member.post(f"{PAGE}/{chat}/off")).status_code == 303
    assert (await member.post(f"{PAGE}/{chat}/delete")).status_code == 303


async def test_a_form_of_another_site_changes_nothing(colleague: Somebody, chat: str) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert (await colleague.http.post(f"{PAGE}/{chat}/delete", headers=headers)).status_code == 403
    assert (await colleague.get(f"{PAGE}/{chat}")).status_code == 200
