"""A model's page in the catalog, and deploying from it."""

import json
import uuid
from html import unescape
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import update

from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.accounts import members
from modelshare.server.accounts import service as accounts
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.app import Application
from modelshare.server.fleet.tables import AgentRow
from modelshare.server.http import Caller
from modelshare.server.registry.service import model_changed
from modelshare.server.registry.tables import VersionRow
from modelshare.server.sharing import service as sharing
from modelshare.wire.agents import AgentState
from page_texts import lines, message
from server.web.catalog_pages import CATALOG, links, share
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
IN_PLACE = {"HX-Request": "true"}


@pytest.fixture
async def model(app: Application, owner: Tenant) -> str:
    """Id of a model that everybody sees."""
    return await share(app, owner, "tiny", parameters=1_200_000_000)


@pytest.fixture
async def helper(app: Application, stranger: Somebody, project: str) -> Somebody:
    """A plain member of the project."""
    person = await app.platform.sessions.person(stranger.http.cookies["modelshare_session"])
    assert person is not None
    async with app.database.write() as session:
        found = (await accounts.find_projects(session, [project]))[project]
        await members.add(session, found.id, person, MemberRole.MEMBER, now=app.platform.now())
    return stranger


async def shown(browser: httpx.AsyncClient, model_id: str, query: str = "") -> httpx.Response:
    page = await browser.get(f"{CATALOG}/{model_id}{query}")
    assert page.status_code == 200, page.text
    return page


@ON_BOTH_DATABASES
async def test_it_tells_all_of_a_model(app: Application, owner: Tenant, browser: httpx.AsyncClient, model: str) -> None:
    await owner.http.patch(f"/v1/models/{model}", json={"card": "---\nlicense: mit\n---\n# Hello\n\nA *card*."})
    await add_version(app, uuid.UUID(model), "0.9.0")
    page = await shown(browser, model)
    said = lines(page)
    for words in ("acme/tiny", "About tiny", "1.2B", "2K tokens", "F32", "apache-2.0", "model.gguf", "1 kB"):
        assert words in said.replace(" / ", "/"), words
    for words in ("0.9.0", "1.0.0 latest", "Its role is deployable", "About", "KV cache"):
        assert words in said, words
    assert "<h2>Hello</h2>" in page.text
    assert "<em>card</em>" in page.text
    assert "license: mit" not in said
    detail = (await browser.get(f"/v1/catalog/models/{model}")).json()
    assert detail["manifest_digest"] in page.text
    assert detail["manifest"]["files"][0]["sha256"] in page.text


async def test_it_says_where_it_is_and_what_it_is_about(browser: httpx.AsyncClient, model: str) -> None:
    page = await shown(browser, model, "?tier=free")
    assert f'<link rel="canonical" href="http://modelshare.test{CATALOG}/{model}">' in page.text
    assert '<meta name="description" content="About tiny">' in page.text


async def test_code_to_copy_names_this_platform(browser: httpx.AsyncClient, model: str) -> None:
    text = unescape((await shown(browser, model)).text)
    assert "export MODELSHARE_URL=http://modelshare.test" in text
    assert "modelshare deploy acme/tiny --tier self_hosted --slug tiny" in text
    assert "MODELSHARE_JOIN_KEY=msj_… modelshare agent --url http://modelshare.test" in text
    assert "http://modelshare.test/YOUR_PROJECT_ID/tiny/v1/chat/completions" in text


@pytest.mark.parametrize("model_id", ["00000000-0000-4000-8000-000000000000"])
async def test_a_model_that_is_not_there(browser: httpx.AsyncClient, model_id: str) -> None:
    page = await browser.get(f"{CATALOG}/{model_id}")
    assert page.status_code == 404
    assert message(page) == (await browser.get(f"/v1/catalog/models/{model_id}")).json()["error"]["message"]


async def test_what_is_no_id(browser: httpx.AsyncClient) -> None:
    page = await browser.get(f"{CATALOG}/tiny")
    assert page.status_code == 400
    assert message(page).startswith("Invalid link to a model. Look for the model in the catalog")


async def test_an_unshared_model_is_not_there(owner: Tenant, browser: httpx.AsyncClient, model: str) -> None:
    assert (await owner.http.post(f"/v1/models/{model}/unshare")).status_code == 200
    assert (await browser.get(f"{CATALOG}/{model}")).status_code == 404


async def test_a_targeted_model_is_for_its_project(
    app: Application, owner: Tenant, browser: httpx.AsyncClient, colleague: Somebody, project: str, stranger: Somebody
) -> None:
    model = str(await make_model(app, owner.project.id, name="quiet"))
    body = {"audience": {"projects": [project]}}
    assert (await owner.http.post(f"/v1/models/{model}/share", json=body)).status_code == 200
    assert (await colleague.get(f"{CATALOG}/{model}")).status_code == 404
    assert "shared with you" in (await shown(colleague.http, model, f"?as={project}")).text
    assert (await stranger.get(f"{CATALOG}/{model}?as={project}")).status_code == 404
    assert (await browser.get(f"{CATALOG}/{model}")).status_code == 404
    away = await browser.get(f"{CATALOG}/{model}?as={project}")
    assert away.status_code == 303
    assert away.headers["location"] == f"/sign-in?next={quote(f'{CATALOG}/{model}?as={project}')}"


async def test_signed_out_one_is_led_to_sign_in_and_back(browser: httpx.AsyncClient, model: str) -> None:
    page = await shown(browser, model)
    assert "Sign in to deploy" in page.text
    assert f"/sign-in?next={CATALOG}/{model}" in links(page)
    assert (await browser.get(f"{CATALOG}/{model}/explain")).status_code == 303
    form = {"as": "labs", "tier": "self_hosted", "slug": "chat"}
    assert (await browser.post(f"{CATALOG}/{model}/deploy", data=form)).headers["location"].startswith("/sign-in")


async def test_who_is_in_no_project_is_told_to_make_one(colleague: Somebody, model: str) -> None:
    assert "/dashboard/-/new" in links(await shown(colleague.http, model))


async def test_why_not_is_answered_where_the_tier_is_chosen(colleague: Somebody, project: str, model: str) -> None:
    page = await colleague.http.get(f"{CATALOG}/{model}/explain?as={project}&tier=free&slug=chat", headers=IN_PLACE)
    assert "<html" not in page.text
    assert "Why not?" in page.text
    assert "<code>deployable</code>" in page.text
    assert "Choose the tier <code>self_hosted</code>" in page.text
    plain = await shown(colleague.http, model, f"?as={project}&tier=free&slug=chat")
    assert "Choose the tier <code>self_hosted</code>" in plain.text
    assert '<option value="free" selected>' in plain.text
    fine = await colleague.http.get(f"{CATALOG}/{model}/explain?as={project}&tier=self_hosted&slug=chat")
    assert "You can deploy it with these settings" in fine.text
    assert "No agent of your project is connected" in fine.text


@pytest.mark.parametrize(
    ("query", "status"), [("tier=none&slug=chat", 200), ("slug=Not+So", 400), ("slug=chat&version=soon", 400)]
)
async def test_odd_choices_are_explained(
    colleague: Somebody, project: str, model: str, query: str, status: int
) -> None:
    page = await colleague.http.get(f"{CATALOG}/{model}/explain?as={project}&{query}", headers=IN_PLACE)
    assert page.status_code == status
    assert "note" in page.text


async def test_deploying_as_new_leads_to_the_endpoint_too(helper: Somebody, project: str, model: str) -> None:
    """Where endpoints are made is at `…/endpoints/new`."""
    form = {"as": project, "tier": "self_hosted", "slug": "new"}
    answer = await helper.http.post(f"{CATALOG}/{model}/deploy", data=form)
    assert answer.headers["location"] == f"/dashboard/{project}/endpoints/-/new"


async def test_deploying_leads_to_the_endpoint(helper: Somebody, project: str, model: str) -> None:
    form = {"as": project, "tier": "self_hosted", "slug": "chat"}
    answer = await helper.http.post(f"{CATALOG}/{model}/deploy", data=form)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"/dashboard/{project}/endpoints/chat"
    assert "1 deployment" in (await helper.get(CATALOG)).text
    again = await helper.http.post(f"{CATALOG}/{model}/deploy", data=form, headers=IN_PLACE)
    assert again.status_code == 409
    assert "already has an endpoint chat" in message(again)
    in_place = await helper.http.post(f"{CATALOG}/{model}/deploy", data={**form, "slug": "b"}, headers=IN_PLACE)
    assert in_place.headers["hx-redirect"] == f"/dashboard/{project}/endpoints/b"


@pytest.mark.parametrize(
    ("change", "status"),
    [({"tier": "free"}, 403), ({"tier": "none"}, 400), ({"slug": "Not So"}, 400), ({"as": "acme"}, 404)],
)
async def test_what_cannot_be_deployed_says_why(
    helper: Somebody, project: str, model: str, change: dict[str, str], status: int
) -> None:
    form = {"as": project, "tier": "self_hosted", "slug": "chat", **change}
    answer = await helper.http.post(f"{CATALOG}/{model}/deploy", data=form)
    assert answer.status_code == status
    assert message(answer)
    assert "0 deployments" in (await helper.get(CATALOG)).text


async def test_a_form_of_another_site_deploys_nothing(colleague: Somebody, project: str, model: str) -> None:
    form = {"as": project, "tier": "self_hosted", "slug": "chat"}
    answer = await colleague.http.post(f"{CATALOG}/{model}/deploy", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


async def test_it_says_on_which_agents_it_fits(app: Application, owner: Tenant, person: Somebody, model: str) -> None:
    made = {"big": (64, ["llamacpp"]), "small": (4, ["llamacpp"]), "odd": (64, ["transformers"])}
    async with app.database.write() as session:
        await session.execute(
            update(VersionRow).where(VersionRow.model_id == uuid.UUID(model)).values(size_bytes=5 * 10**9)
        )
        session.add_all(
            AgentRow(
                project_id=owner.project.id,
                name=name,
                token_hash=name,
                state=AgentState.ACTIVE,
                capabilities={"engines": engines, "memory_bytes": size * 10**9},
                created_at=1,
            )
            for name, (size, engines) in made.items()
        )
    said = lines(await shown(person.http, model, "?as=acme"))
    assert "big active 64 GB memory fits" in said
    assert "small active 4 GB memory too large" in said
    assert "odd active 64 GB memory no engine available" in said
    elsewhere = await shown(person.http, model, "?as=acme&tier=free")
    assert "On your agents" not in elsewhere.text


async def test_its_owner_is_led_to_where_it_is_managed(
    app: Application, colleague: Somebody, project: str, stranger: Somebody
) -> None:
    answer = await colleague.get(f"{CATALOG}?as={project}")
    assert answer.status_code == 200
    async with app.database.read() as session:
        found = (await accounts.find_projects(session, [project]))[project]
    model = str(await make_model(app, found.id, name="own"))
    async with app.database.write() as session:
        caller = Caller(key_id=uuid.UUID(int=1), project_id=found.id, project_slug=project, scopes=frozenset())
        await sharing.share(session, caller, uuid.UUID(model), now=app.platform.now())
    managed = f"/dashboard/{project}/models/{model}"
    assert managed in links(await shown(colleague.http, model))
    assert managed not in links(await shown(stranger.http, model))


@pytest.mark.parametrize("count", [1, 10, 11, 600])
async def test_long_lists_of_files_are_folded(
    app: Application, browser: httpx.AsyncClient, model: str, count: int
) -> None:
    files = [{"path": f"part-{n:04}.gguf", "sha256": f"{n:064x}", "size": 10} for n in range(count)]
    async with app.database.write() as session:
        manifest = json.dumps({"files": files, "name": "tiny"}).encode()
        await session.execute(
            update(VersionRow).where(VersionRow.model_id == uuid.UUID(model)).values(manifest=manifest)
        )
    page = await shown(browser, model)
    assert page.text.count("part-") >= min(count, 500)
    assert ("more file" in page.text) == (count > 10)
    assert ("the first 500 of 600" in page.text) == (count > 500)


CARD = """# <script>alert(1)</script>

<img src=x onerror=alert(1)> [here](javascript:alert(1)) ![seen](https://tracker.example/x.png)
<form action=https://evil.example><button>Sign in</button></form>
"""


async def test_hostile_words_stay_words(
    app: Application, owner: Tenant, browser: httpx.AsyncClient, model: str
) -> None:
    words = '"><script>alert(1)</script>'
    patch = {"display_name": words, "description": words, "tags": [words], "license": words, "card": CARD}
    assert (await owner.http.patch(f"/v1/models/{model}", json=patch)).status_code == 200
    async with app.database.write() as session:
        statement = update(VersionRow).where(VersionRow.model_id == uuid.UUID(model))
        turned = f"{words}\u202e"  # as an older release took it
        await session.execute(statement.values(family=turned, architecture=turned, quantization=turned))
        model_changed(session, uuid.UUID(model))
    page = await shown(browser, model)
    card = page.text.partition('class="prose"')[2].partition("</section>")[0]
    assert "<script>alert" not in page.text
    assert "\u202e" not in page.text
    assert 'href="javascript:' not in page.text
    for tag in ("<img", "<form", "<button", "<script"):
        assert tag not in card
