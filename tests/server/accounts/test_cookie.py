"""A session's cookie in place of a key: on paths that name the project, from pages of the platform."""

from collections.abc import AsyncIterator

import httpx
import pytest

from answers import ANONYMOUS, message, problem
from conftest import Tenant, client_of
from modelshare.server.accounts import members, sessions
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.accounts.sessions import SessionAuthenticator
from modelshare.server.app import Application, create_app
from modelshare.server.http import SESSION_COOKIE
from modelshare.server.settings import Settings
from persons import browser, join, new_person, sign_in

pytestmark = pytest.mark.anyio
FORBIDDEN = (403, "permission_error", None)
NOT_FOUND = (404, "not_found_error", "project_not_found")
NEW_KEY = {"name": "ci"}


@pytest.fixture
async def ada(app: Application, owner: Tenant) -> Person:
    person = await new_person(app, "ada")
    await join(app, person, owner.project.id)
    return person


@pytest.fixture
async def token(app: Application, ada: Person) -> str:
    return await sign_in(app, ada)


@pytest.fixture
async def page(app: Application, token: str) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(app, token) as http:
        yield http


@pytest.fixture
def base(owner: Tenant) -> str:
    return f"/{owner.project.id}/v1"


async def test_it_does_what_a_key_does(page: httpx.AsyncClient, base: str, owner: Tenant, ada: Person) -> None:
    assert (await page.get(f"{base}/models")).status_code == 200
    made = await page.post(f"{base}/keys", json=NEW_KEY)
    assert made.status_code == 201
    assert (await page.delete(f"{base}/keys/{made.json()['id']}")).status_code == 204
    newest = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (newest["action"], newest["actor"]) == ("key.revoke", f"person:{ada.id}")


async def test_where_no_project_is_named_it_is_nothing(page: httpx.AsyncClient, base: str) -> None:
    assert problem(await page.get("/v1/models")) == ANONYMOUS
    assert problem(await page.post("/v1/keys", json=NEW_KEY)) == ANONYMOUS
    assert problem(await page.get("/v1/platform/projects")) == ANONYMOUS
    catalog = await page.get("/v1/catalog/models")
    assert catalog.status_code == 200


async def test_a_key_beside_it_decides(
    app: Application, token: str, base: str, owner: Tenant, deployer: Tenant
) -> None:
    for key, expected in ((deployer.project.api_key, 404), ("ms_acme_nonsense", 401), (owner.project.api_key, 200)):
        async with browser(app, token, authorization=f"Bearer {key}") as http:
            assert (await http.get(f"{base}/models")).status_code == expected
    async with browser(app, token, authorization="Basic x") as http:
        assert problem(await http.get(f"{base}/models")) == ANONYMOUS


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": ""},  # neither
        {"sec_fetch_site": "", "origin": "https://evil.example"},
        {"sec_fetch_site": "", "origin": "null"},
        {"sec_fetch_site": "cross-site", "origin": "http://modelshare.test"},
    ],
    ids=str,
)
async def test_another_sites_request_is_refused(
    app: Application, token: str, base: str, owner: Tenant, headers: dict[str, str]
) -> None:
    async with browser(app, token, **headers) as http:
        for answer in (
            await http.post(f"{base}/keys", json=NEW_KEY),
            await http.delete(f"{base}/keys/x"),
            await http.post(f"/{owner.project.id}/chat/v1/chat/completions", content=b"{}"),
        ):
            assert problem(answer) == FORBIDDEN
            assert "another site" in message(answer)
        assert (await http.get(f"{base}/models")).status_code == 200  # what only reads, the browser keeps from them
    assert len((await owner.http.get("/v1/keys")).json()["data"]) == 1


async def test_an_old_browser_names_the_origin(app: Application, token: str, base: str) -> None:
    async with browser(app, token, sec_fetch_site="", origin="http://modelshare.test") as http:
        assert (await http.post(f"{base}/keys", json=NEW_KEY)).status_code == 201


async def test_the_public_url_is_the_origin(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"public_url": "https://models.example.org/"}))
    async with app.running():
        person = await new_person(app, "admin", is_admin=True)
        async with app.database.write() as session:
            project = await members.create_project(session, person, name="Lab", slug="lab", limit=1, now=1000)
        token = await sign_in(app, person)
        for origin, expected in (("https://models.example.org", 201), ("http://modelshare.test", 403)):
            async with browser(app, token, sec_fetch_site="", origin=origin) as http:
                assert (await http.post(f"/{project.id}/v1/keys", json=NEW_KEY)).status_code == expected


async def test_a_member_lacks_what_owners_have(app: Application, owner: Tenant, base: str) -> None:
    person = await new_person(app, "bob")
    await join(app, person, owner.project.id, MemberRole.MEMBER)
    async with browser(app, await sign_in(app, person)) as http:
        assert (await http.get(f"{base}/models")).status_code == 200
        assert (await http.get(f"{base}/agents")).status_code == 200
        for answer in (
            await http.get(f"{base}/keys"),
            await http.post(f"{base}/keys", json=NEW_KEY),
            await http.get(f"{base}/audit"),
            await http.get(f"{base}/webhooks"),
        ):
            assert problem(answer) == FORBIDDEN
            assert "owner" in message(answer)


async def test_projects_of_others_are_not_there(
    page: httpx.AsyncClient, deployer: Tenant, app: Application, base: str
) -> None:
    for project in (deployer.project.id, "proj_000000000000"):
        answers = [
            await page.get(f"/{project}/v1/models"),
            await page.get(f"/{project}/chat/v1/models"),
            await page.post(f"/{project}/chat/v1/chat/completions", content=b"{}"),
        ]
        assert [problem(answer) for answer in answers] == [NOT_FOUND] * 3
        assert len({message(answer) for answer in answers}) == 1
    async with browser(app, await sign_in(app, await new_person(app, "eve"))) as http:
        assert problem(await http.get(f"{base}/models")) == NOT_FOUND


async def test_a_session_that_is_over_is_none(
    app: Application, token: str, page: httpx.AsyncClient, base: str, owner: Tenant
) -> None:
    assert (await page.get(f"{base}/models")).status_code == 200
    async with app.database.write() as session:
        await sessions.close_session(session, token)
    for path in (f"{base}/models", f"/{owner.project.id}/chat/v1/models"):
        assert problem(await page.get(path)) == ANONYMOUS
    async with client_of(app) as http:
        http.cookies.set(SESSION_COOKIE, "\x7f" + "x" * 5000)
        assert problem(await http.get(f"{base}/models")) == ANONYMOUS


async def test_who_is_removed_is_out_at_once(
    app: Application, ada: Person, page: httpx.AsyncClient, base: str, owner: Tenant
) -> None:
    boss = await new_person(app, "boss")
    await join(app, boss, owner.project.id)
    assert (await page.get(f"{base}/models")).status_code == 200
    book: SessionAuthenticator = app.platform.parts[SessionAuthenticator]
    caller = await book.caller(await sign_in(app, boss), "acme")
    assert caller is not None
    async with app.database.write() as session:
        await members.remove(session, caller, ada.id, now=1000)
    assert problem(await page.get(f"{base}/models")) == NOT_FOUND


async def test_an_admin_is_an_owner_everywhere_and_no_platform_key(app: Application, base: str) -> None:
    person = await new_person(app, "root", is_admin=True)
    async with browser(app, await sign_in(app, person)) as http:
        assert (await http.get(f"{base}/keys")).status_code == 200
        assert problem(await http.get(f"{base}/platform/projects")) == FORBIDDEN


async def test_it_opens_no_other_credentials_doors(app: Application, token: str, base: str) -> None:
    """A session's token is no key, and a key is no session."""
    async with client_of(app, token) as http:
        assert problem(await http.get(f"{base}/models")) == ANONYMOUS
