"""Pages of other sites: what a browser is told of whether they may read an answer."""

from collections.abc import AsyncIterator

import httpx
import pytest

from conftest import new_tenant
from modelshare.server.app import Application
from modelshare.server.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
PAGE = "https://app.example.org"
ASKS = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-a"}


@pytest.fixture
def origins() -> tuple[str, ...]:
    return (PAGE,)


@pytest.fixture
async def app(settings: Settings, origins: tuple[str, ...]) -> AsyncIterator[Application]:
    application = Application(settings.model_copy(update={"cors_origins": origins}))
    async with application.running():
        yield application


@pytest.fixture
async def http(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    tenant = await new_tenant(app, "acme")
    async with tenant.http as found:
        found.headers["Origin"] = PAGE
        yield found


def allowed(answer: httpx.Response) -> str | None:
    assert "access-control-allow-credentials" not in answer.headers
    found: str | None = answer.headers.get("access-control-allow-origin")
    return found


async def test_a_page_of_the_list(http: httpx.AsyncClient) -> None:
    for path in ("/v1/models", "/v1/tiers", "/proj_0123456789ab/chat/v1/chat/completions"):
        asked = await http.options(path, headers=ASKS)
        assert (asked.status_code, allowed(asked)) == (204, PAGE)
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert asked.headers["access-control-allow-headers"] == "authorization,x-a"
        read = await http.get(path)
        assert allowed(read) == PAGE, "errors as well, or the page could not tell what is wrong"
        assert "x-ratelimit-remaining-requests" in read.headers["access-control-expose-headers"]
        assert "X-Request-Id" in read.headers["access-control-expose-headers"]
        assert "Origin" in read.headers["vary"]


async def test_any_other_page(http: httpx.AsyncClient) -> None:
    for origin in ("https://evil.example.org", "null", f"{PAGE}:8443", "http://app.example.org", f"{PAGE}.evil.org"):
        asked = await http.options("/v1/models", headers=ASKS | {"Origin": origin})
        assert (asked.status_code, allowed(asked)) == (405, None)
        read = await http.get("/v1/models", headers={"Origin": origin})
        assert allowed(read) is None
        assert "Origin" in read.headers["vary"], "or a cache would give it to the pages of the list"


async def test_nothing_with_a_cookie_and_no_page_of_our_own(http: httpx.AsyncClient) -> None:
    assert allowed(await http.get("/v1/tiers", headers={"Cookie": "modelshare_session=x"})) is None
    for path in ("/sign-in", "/", "/models/catalog"):
        assert allowed(await http.get(path)) is None


@pytest.mark.parametrize("origins", [("*",)])
async def test_every_page(http: httpx.AsyncClient) -> None:
    assert allowed(await http.options("/v1/models", headers=ASKS)) == "*"
    assert allowed(await http.get("/v1/models")) == "*"
    assert allowed(await http.get("/v1/models", headers={"Cookie": "modelshare_session=x"})) is None


@pytest.mark.parametrize("origins", [()])
async def test_off_by_default(http: httpx.AsyncClient) -> None:
    assert Settings().cors_origins == ()
    assert (await http.options("/v1/models", headers=ASKS)).status_code == 405
    assert "vary" not in (await http.get("/v1/models")).headers
