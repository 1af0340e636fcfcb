"""Pages of people: sign up, in and out, projects, invitations, claim links; and what holds for every page."""

import re
from urllib.parse import quote

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE
from modelshare.server.settings import Settings
from page_texts import lines, message
from server.web.conftest import ON_BOTH_DATABASES, PASSWORD, SignUp, Somebody, browser_of, new_project, token_in

pytestmark = pytest.mark.anyio
ADA = {"name": "Ada", "email": "ada@example.org", "password": PASSWORD}


async def sign_in(http: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await http.post("/sign-in", data={"email": "ada@example.org", "password": PASSWORD, **fields})


@ON_BOTH_DATABASES
async def test_the_first_one_runs_the_platform(browser: httpx.AsyncClient) -> None:
    assert "You are the first user" in (await browser.get("/sign-up")).text
    answer = await browser.post("/sign-up", data=ADA)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith(SESSION_COOKIE))
    assert {"httponly", "samesite=lax"} <= {part.strip().lower() for part in cookie.split(";")}
    page = await browser.get("/dashboard")
    assert "Welcome, Ada." in lines(page)
    assert "/dashboard/-/platform" in page.text
    assert "Welcome, Ada." not in lines(await browser.get("/dashboard"))
    assert "You are the first user" not in (await browser.get("/sign-up")).text


@ON_BOTH_DATABASES
async def test_out_and_in_again(person: Somebody) -> None:
    assert (await person.post("/sign-out")).headers["location"] == "/"
    assert (await person.get("/dashboard")).headers["location"] == "/sign-in?next=/dashboard"
    answer = await sign_in(person.http, next="/dashboard/-/account")
    assert answer.headers["location"] == "/dashboard/-/account"
    assert "ada@example.org" in (await person.get("/dashboard/-/account")).text
    assert (await person.get("/sign-in")).headers["location"] == "/dashboard"


async def test_signing_out_ends_the_session_itself(person: Somebody, browser: httpx.AsyncClient) -> None:
    token = person.http.cookies[SESSION_COOKIE]
    await person.post("/sign-out")
    browser.cookies.set(SESSION_COOKIE, token)
    assert (await browser.get("/dashboard")).status_code == 303


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"email": "nobody"}, 400),
        ({"email": "ada@example.org"}, 409),
        ({"password": "short"}, 400),
        ({"password": "p" * 5000}, 400),
        ({"name": " "}, 400),
        ({"name": "A\u202eda"}, 400),
    ],
)
async def test_signing_up_badly(
    browser: httpx.AsyncClient, person: Somebody, fields: dict[str, str], status: int
) -> None:
    answer = await browser.post("/sign-up", data={**ADA, "email": "new@example.org", **fields})
    assert answer.status_code == status
    assert message(answer).endswith((".", "it."))
    assert SESSION_COOKIE not in browser.cookies


async def test_a_wrong_password_says_no_more_than_that(browser: httpx.AsyncClient, person: Somebody) -> None:
    wrong = await sign_in(browser, password="another long one")
    unknown = await sign_in(browser, email="nobody@example.org")
    assert wrong.status_code == unknown.status_code == 401
    assert message(wrong) == message(unknown) == "Incorrect e-mail or password. Check both and try again."
    assert SESSION_COOKIE not in browser.cookies


ELSEWHERE = [
    "https://evil.example",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    " //evil.example",
    "javascript:alert(1)",
    "evil.example",
    "http:/evil.example",
    "/dashboard\r\nSet-Cookie: a=b",
    "",
]


@pytest.mark.parametrize("onward", ELSEWHERE)
async def test_signing_in_leads_nowhere_else(browser: httpx.AsyncClient, person: Somebody, onward: str) -> None:
    page = await browser.get(f"/sign-in?next={quote(onward)}")
    assert 'name="next" value="/dashboard"' in page.text
    assert (await sign_in(browser, next=onward)).headers["location"] == "/dashboard"
    assert (await browser.get(f"/sign-in?next={quote(onward)}")).headers["location"] == "/dashboard"


async def test_signing_in_leads_back(browser: httpx.AsyncClient, person: Somebody) -> None:
    sent = await browser.get("/dashboard/-/new?a=1&b=2")
    assert sent.headers["location"] == "/sign-in?next=/dashboard/-/new%3Fa%3D1%26b%3D2"
    page = await browser.get(sent.headers["location"])
    assert 'name="next" value="/dashboard/-/new?a=1&amp;b=2"' in page.text


HERE = "http://modelshare.test"
FORM = "/dashboard/labs/endpoints/-/new?model=x&tier=free"


@pytest.mark.parametrize(
    ("headers", "back"),
    [
        ({"Referer": HERE + FORM}, FORM),
        ({"HX-Request": "true", "HX-Current-URL": f"{HERE}{FORM}#slug"}, FORM),
        ({"HX-Request": "true"}, "/dashboard"),
        ({}, "/dashboard"),
        ({"Referer": HERE}, "/dashboard"),
        ({"Referer": f"{HERE}//evil.example/"}, "/dashboard"),
        ({"Referer": f"{HERE}/\\evil.example"}, "/dashboard"),
        ({"Referer": f"https://evil.example{FORM}"}, "/dashboard"),
        ({"Referer": f"http://modelshare.test@evil.example{FORM}"}, "/dashboard"),
        ({"Referer": f"http://modelshare.test:81{FORM}"}, "/dashboard"),
        ({"Referer": FORM}, "/dashboard"),
        ({"Referer": "http://[nonsense"}, "/dashboard"),
        ({"Referer": "javascript:alert(1)"}, "/dashboard"),
    ],
)
async def test_a_form_whose_session_is_over_leads_back_to_its_page(
    browser: httpx.AsyncClient, headers: dict[str, str], back: str
) -> None:
    answer = await browser.post("/dashboard/-/new", data={"name": "x", "slug": "x"}, headers=headers)
    onward = answer.headers.get("hx-redirect") or answer.headers["location"]
    assert onward == f"/sign-in?next={quote(back)}"


async def test_a_part_whose_session_is_over_leads_back_to_its_page(browser: httpx.AsyncClient) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": HERE + FORM}
    answer = await browser.get("/dashboard/labs/endpoints/-/explain?slug=x", headers=headers)
    assert answer.headers["hx-redirect"] == f"/sign-in?next={quote(FORM)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
)
async def test_forms_of_other_sites_are_refused(person: Somebody, headers: dict[str, str]) -> None:
    del person.http.headers["Sec-Fetch-Site"]
    for path, form in (
        ("/dashboard/-/new", {"name": "Evil", "slug": "evil"}),
        ("/sign-out", {}),
        ("/sign-in", {"email": "eve@example.org", "password": PASSWORD}),
    ):
        refused = await person.http.post(path, data=form, headers=headers)
        assert refused.status_code == 403
        assert "another site" in message(refused)
    assert "No projects yet" in (await person.get("/dashboard")).text


async def test_a_form_of_this_site_by_its_origin(person: Somebody) -> None:
    del person.http.headers["Sec-Fetch-Site"]
    form = {"name": "Labs", "slug": "labs"}
    headers = {"Origin": "http://modelshare.test"}
    assert (await person.http.post("/dashboard/-/new", data=form, headers=headers)).status_code == 303


async def test_projects(colleague: Somebody) -> None:
    assert "No projects yet" in (await colleague.get("/dashboard")).text
    await new_project(colleague, "labs")
    assert (await colleague.get("/dashboard")).headers["location"] == "/dashboard/labs/models"
    await new_project(colleague, "more")
    assert "labs · owner" in lines(await colleague.get("/dashboard"))
    for fields, status in (
        ({"name": "x", "slug": "labs"}, 409),
        ({"name": "x", "slug": "No"}, 400),
        ({"name": "", "slug": "x"}, 400),
    ):
        assert (await colleague.post("/dashboard/-/new", **fields)).status_code == status


async def test_the_account(colleague: Somebody, browser: httpx.AsyncClient) -> None:
    await colleague.post("/dashboard/-/account/name", name="Benedict <b>")
    assert "Benedict &lt;b&gt;" in (await colleague.get("/dashboard/-/account")).text
    await sign_in(browser, email=colleague.email)
    assert (await browser.get("/dashboard")).status_code == 200
    wrong = await colleague.post("/dashboard/-/account/password", current="not that one", new="another long one")
    assert wrong.status_code == 401
    await colleague.post("/dashboard/-/account/password", current=PASSWORD, new="another long one")
    assert (await browser.get("/dashboard")).status_code == 303
    assert (await colleague.get("/dashboard")).status_code == 200
    await sign_in(browser, email=colleague.email, password="another long one")
    await colleague.post("/dashboard/-/account/sign-out-others")
    assert (await browser.get("/dashboard")).status_code == 303


async def test_an_invitation(colleague: Somebody, project: str, stranger: Somebody, app: Application) -> None:
    token = token_in(await colleague.post(f"/dashboard/{project}/members/invitations", role="member"))
    async with browser_of(app) as http:
        page = await http.get(f"/join?token={token}")
        assert "Join Labs ? You are invited as member." in lines(page)
        assert f"/sign-up?invitation={token}" in page.text
        assert "You are invited to Labs" in lines(await http.get(f"/sign-up?invitation={token}"))
        assert (await http.post("/join", data={"token": token})).headers["location"] == "/sign-in?next=/dashboard"
    assert "Join as Eve" in lines(await stranger.get(f"/join?token={token}"))
    assert (await stranger.post("/join", token=token)).headers["location"] == "/dashboard"
    assert (await stranger.get("/dashboard")).headers["location"] == f"/dashboard/{project}/models"
    for token_then in (token, "msi_nothing"):
        over = await stranger.get(f"/join?token={token_then}")
        assert (over.status_code, "used or has expired" in message(over)) == (404, True)
        assert (await stranger.post("/join", token=token_then)).status_code == 404


class TestByInvitation:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"accounts_sign_up": "invite_only"})

    async def test_nobody_else_signs_up(self, person: Somebody, browser: httpx.AsyncClient, sign_up: SignUp) -> None:
        assert "Sign-up is by invitation" in lines(await browser.get("/sign-up"))
        refused = await browser.post("/sign-up", data={**ADA, "email": "eve@example.org"})
        assert (refused.status_code, "by invitation" in message(refused)) == (403, True)
        await new_project(person, "labs")
        token = token_in(await person.post("/dashboard/labs/members/invitations", role="member"))
        invited = await sign_up("Mia", invitation=token)
        assert (await invited.get("/dashboard")).headers["location"] == "/dashboard/labs/models"


async def test_a_claim_link(app: Application, owner: Tenant, colleague: Somebody, project: str) -> None:
    model = await make_model(app, owner.project.id)
    shared = await owner.http.post(f"/v1/models/{model}/share", json={"audience": {"link": {}}})
    token = re.search(r"msl_[\w-]{43}", shared.text)
    assert token, shared.text
    page = await colleague.get(f"/claim?token={token[0]}")
    option = re.search(r'<option value="(proj_[0-9a-f]{12})">Labs \(labs\)', page.text)
    assert option
    claimed = await colleague.post("/claim", project=option[1], token=token[0])
    assert claimed.headers["location"] == f"/models/catalog/{model}?as=labs"
    assert (await colleague.post("/claim", project=option[1], token="nothing")).status_code == 404
    assert (await colleague.post("/claim", project=owner.project.id, token=token[0])).status_code == 404


async def test_a_claim_link_needs_a_project(colleague: Somebody, browser: httpx.AsyncClient) -> None:
    assert "You need a project to claim a model." in lines(await colleague.get("/claim?token=x"))
    assert (await browser.get("/claim?token=x")).headers["location"] == "/sign-in?next=/claim%3Ftoken%3Dx"


PUBLIC = ("/", "/sign-in", "/sign-up", "/join?token=x")
PRIVATE = (
    "/dashboard",
    "/dashboard/-/new",
    "/dashboard/-/account",
    "/claim",
    "/dashboard/labs/keys",
    "/dashboard/-/platform",
)


def check_headers(answer: httpx.Response) -> None:
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert {"script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} <= {
        part.strip() for part in policy.split(";")
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert "Cookie" in answer.headers["vary"]


def check_markup(answer: httpx.Response) -> None:
    """What the policy forbids is not there, and nothing comes from elsewhere."""
    assert not re.search(r"<[^>]+\s(style|on\w+)=", answer.text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", answer.text)
    assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//', answer.text)
    assert len(re.findall(r"<h1[ >]", answer.text)) == 1
    assert '<html lang="en">' in answer.text


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_pages_are_safe(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    check_headers(answer)
    check_markup(answer)
    assert answer.headers["cache-control"] == "no-cache"


async def test_pages_of_somebody_are_safe_and_kept_nowhere(person: Somebody) -> None:
    await new_project(person, "labs")
    for path in (*PUBLIC, *PRIVATE, "/nothing"):
        answer = await person.get(path)
        if answer.status_code in {200, 404}:
            check_headers(answer)
            check_markup(answer)
            assert answer.headers["cache-control"] == "no-store", path
            assert "content-encoding" not in answer.headers, path
    for path in PRIVATE:
        assert (await person.get(path)).status_code == 200, path


async def test_errors_of_forms_come_in_place(browser: httpx.AsyncClient, person: Somebody) -> None:
    htmx = {"HX-Request": "true"}
    form = {"email": "ada@example.org", "password": "wrong and long"}
    answer = await browser.post("/sign-in", data=form, headers=htmx)
    assert answer.status_code == 401
    assert answer.text.startswith('<div class="note bad" role="alert">')
    assert "<html" not in answer.text
    check_headers(answer)
    good = await browser.post("/sign-in", data={**form, "password": PASSWORD}, headers=htmx)
    assert (good.status_code, good.headers["hx-redirect"]) == (200, "/dashboard")
    await browser.post("/sign-out")
    away = await browser.post("/dashboard/-/new", data={"name": "x", "slug": "x"}, headers=htmx)
    assert away.headers["hx-redirect"] == "/sign-in?next=/dashboard"


async def test_a_message_that_somebody_made_up_is_not_shown(person: Somebody) -> None:
    person.http.cookies.set("modelshare_message", "IllvdSBhcmUgaGFja2VkIg.aSTk.xxxxxxxxxxxxxxxxxxxxxxxxxxx")
    assert 'role="status"' not in (await person.get("/dashboard")).text


async def test_guessing_is_slowed(browser: httpx.AsyncClient, person: Somebody) -> None:
    answers = [await sign_in(browser, password=f"guess number {count}") for count in range(20)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert "Too many attempts" in message(answers[-1])
