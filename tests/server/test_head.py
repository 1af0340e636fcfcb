"""HEAD says what GET would, without the body."""

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE
from persons import new_person, sign_in
from served import serving

pytestmark = pytest.mark.anyio
SAME = ("content-type", "content-length", "cache-control", "vary", "content-security-policy")


async def test_what_everybody_may_read(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    paths = (
        "/",
        "/models/catalog",
        f"/models/catalog/{model}",
        "/sign-in",
        "/v1/catalog/models",
        f"/v1/catalog/models/{model}",
        "/v1/tiers",
        "/healthz",
        "/readyz",
        "/metrics",
        "/docs",
        "/static-offline-docs/redoc.standalone.js",
        "/nothing",
        "/v1/models",
    )
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        for path in paths:
            full, head = await http.get(path), await http.head(path)
            assert head.status_code == full.status_code != 405, path
            assert [head.headers.get(name) for name in SAME] == [full.headers.get(name) for name in SAME], path
            assert full.content, path
            assert not head.content, path


async def test_what_never_ends(app: Application) -> None:
    """Live parts of pages: the connection is good for the next request."""
    person = await new_person(app, "ada", is_admin=True)
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        http.cookies.set(SESSION_COOKIE, await sign_in(app, person))
        form = {"name": "Labs", "slug": "labs"}
        assert (await http.post("/dashboard/-/new", data=form, headers={"Origin": url})).status_code == 303
        for _ in range(50):
            head = await http.head("/dashboard/labs/agents/events")
            assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def test_where_only_forms_are_taken(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.head("/v1/enroll")).status_code == 405
