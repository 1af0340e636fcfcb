"""Who may call an endpoint, and what everybody else is told."""

import httpx
import pytest

from conftest import Tenant
from link_agent import LinkAgent, answer
from modelshare.wire.link import Request
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@pytest.fixture
async def anybody(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url)


async def ask(http: httpx.AsyncClient, path: str, key: str | None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=http.base_url, headers=headers) as client:
        return await client.post(path, content=b"{}")


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}"))


@pytest.fixture
def path(endpoint: Endpoint) -> str:
    return f"/{endpoint.tenant.project.id}/chat/v1/chat/completions"


@pytest.mark.parametrize("key", [None, "nonsense", "ms_borg_nonsense", "msa_nonsense"])
async def test_without_a_key(anybody: httpx.AsyncClient, path: str, key: str | None) -> None:
    refused = await ask(anybody, path, key)
    assert refused.status_code == 401
    assert refused.json() == {
        "error": {"message": "Authentication required", "type": "authentication_error", "code": None, "param": None}
    }
    assert refused.headers["x-request-id"]


async def test_another_projects_key(anybody: httpx.AsyncClient, path: str, owner: Tenant) -> None:
    refused = await ask(anybody, path, owner.project.api_key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "project_not_found")
    unknown = await ask(anybody, "/proj_000000000000/chat/v1/chat/completions", owner.project.api_key)
    assert unknown.json() == refused.json()


async def test_no_such_endpoint(anybody: httpx.AsyncClient, endpoint: Endpoint) -> None:
    path = f"/{endpoint.tenant.project.id}/other/v1/chat/completions"
    refused = await ask(anybody, path, endpoint.tenant.project.api_key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "endpoint_not_found")


@pytest.mark.parametrize("slug", ["%00", "A", "a--b", "%ED%A0%80", "x" * 5000])
async def test_what_is_no_slug_is_no_endpoint(anybody: httpx.AsyncClient, endpoint: Endpoint, slug: str) -> None:
    path = f"/{endpoint.tenant.project.id}/{slug}/v1/chat/completions"
    refused = await ask(anybody, path, endpoint.tenant.project.api_key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "endpoint_not_found")


async def test_scope_and_lock(anybody: httpx.AsyncClient, endpoint: Endpoint, ready: LinkAgent, path: str) -> None:
    ready.handler = serve
    for spec, status, words in (
        ({"scopes": ["models"]}, 403, "`inference`"),
        ({"scopes": ["inference"]}, 200, ""),
        ({"endpoint": "other"}, 403, "`other`"),
        ({"endpoint": "chat"}, 200, ""),
        ({"allowed_ips": ["10.0.0.0/8"]}, 401, "Authentication required"),
    ):
        made = await endpoint.tenant.http.post("/v1/keys", json={"name": "narrow", **spec})
        answered = await ask(anybody, path, made.json()["key"])
        assert (answered.status_code, words in answered.text) == (status, True), answered.text


async def test_a_revoked_key_is_refused_at_once(
    anybody: httpx.AsyncClient, endpoint: Endpoint, ready: LinkAgent, path: str
) -> None:
    ready.handler = serve
    made = (await endpoint.tenant.http.post("/v1/keys", json={"name": "short"})).json()
    assert (await ask(anybody, path, made["key"])).status_code == 200
    await endpoint.tenant.http.delete(f"/v1/keys/{made['id']}")
    assert (await ask(anybody, path, made["key"])).status_code == 401


async def test_routes_and_methods(endpoint: Endpoint, ready: LinkAgent) -> None:
    missing = await endpoint.http.post("/responses", content=b"{}")
    assert missing.status_code == 404
    assert "chat/completions" in missing.json()["error"]["message"]
    wrong = await endpoint.http.get("/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (await endpoint.http.post("/models")).status_code == 405


async def test_a_route_that_the_engine_does_not_have(endpoint: Endpoint, agent: LinkAgent) -> None:
    await agent.make_ready(routes=["embeddings"])
    await endpoint.is_("active")
    refused = await endpoint.chat()
    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == "This model serves embeddings, not chat/completions."


async def test_a_body_that_is_too_long(endpoint: Endpoint, ready: LinkAgent) -> None:
    refused = await endpoint.chat(b"x" * ((2 << 20) + 1))
    assert refused.status_code == 413

    async def parts() -> object:
        for _ in range(33):
            yield b"x" * 65_536

    refused = await endpoint.http.post("/chat/completions", content=parts())  # type: ignore[arg-type]
    assert refused.status_code == 413
    assert ready.requests.empty()
