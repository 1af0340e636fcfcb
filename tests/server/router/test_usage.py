"""`GET /v1/usage`, and `/metrics`."""

import asyncio
import datetime as dt

import httpx
import pytest

from conftest import Tenant
from link_agent import LinkAgent, answer, answer_events
from modelshare.server.app import Application
from modelshare.wire.link import Chunk, End, Head, Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    if b"stream" in body:
        await answer_events(agent, request, [b"1", b"2"], tokens=(5, 2))
    elif b"break" in body:
        await agent.send(End(request.stream, "The engine ended."))
    else:
        await agent.send(answer(request, b"{}", tokens=(3, 8)))


async def usage(tenant: Tenant, requests: int, **params: str) -> list[dict[str, object]]:
    """The rows, once they count so many requests."""

    rows: list[dict[str, object]] = []

    async def counted() -> bool:
        nonlocal rows
        answered = await tenant.http.get("/v1/usage", params=params)
        assert answered.status_code == 200, answered.text
        rows = answered.json()["data"]
        return sum(int(str(row["requests"])) for row in rows) == requests

    await wait_until(counted)
    return rows


async def test_requests_tokens_and_errors_are_counted(endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    today = dt.datetime.now(dt.UTC).date()
    for body in (b"{}", b"{}", b'{"stream": true}', b'{"user": "break"}'):
        await endpoint.chat(body)
    (row,) = await usage(endpoint.tenant, 4)
    (key,) = (await endpoint.tenant.http.get("/v1/keys")).json()["data"]
    assert row == {
        "object": "usage",
        "day": today.isoformat(),
        "endpoint": "chat",
        "model": endpoint.model_id,
        "key": key["id"],
        "requests": 4,
        "errors": 1,
        "prompt_tokens": 11,
        "completion_tokens": 18,
        "estimated": False,
        "estimated_requests": 0,
        "tier": None,
        "version": None,
        "cost": 0.0,
    }
    await endpoint.chat()
    (row,) = await usage(endpoint.tenant, 5)
    assert row["prompt_tokens"] == 14
    (row,) = await usage(endpoint.tenant, 5, group_by="tier,version")
    assert (row["tier"], row["version"]) == ("self_hosted", "1.0.0")


async def test_groups_days_and_pages(endpoint: Endpoint, ready: LinkAgent, anonymous: httpx.AsyncClient) -> None:
    ready.handler = serve
    await endpoint.chat()
    other = (await endpoint.tenant.http.post("/v1/keys", json={"name": "other"})).json()["key"]
    async with httpx.AsyncClient(base_url=endpoint.base_url, headers={"Authorization": f"Bearer {other}"}) as http:
        await http.post("/chat/completions", content=b"{}")
    assert len(await usage(endpoint.tenant, 2)) == 2
    (row,) = await usage(endpoint.tenant, 2, group_by="endpoint")
    assert (row["endpoint"], row["day"], row["key"], row["completion_tokens"]) == ("chat", None, None, 16)
    yesterday = (dt.datetime.now(dt.UTC).date() - dt.timedelta(1)).isoformat()
    assert await usage(endpoint.tenant, 0, to=yesterday) == []
    assert len(await usage(endpoint.tenant, 2, **{"from": yesterday})) == 2
    page = (await endpoint.tenant.http.get("/v1/usage", params={"limit": 1})).json()
    assert page["has_more"]
    rest = (await endpoint.tenant.http.get("/v1/usage", params={"after": page["next_cursor"]})).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    for params in ({"group_by": "colour"}, {"from": "today"}, {"after": "nonsense"}):
        assert (await endpoint.tenant.http.get("/v1/usage", params=params)).status_code == 400
    assert (await anonymous.get("/v1/usage")).status_code == 401


async def test_another_project_sees_nothing_of_it(endpoint: Endpoint, ready: LinkAgent, owner: Tenant) -> None:
    ready.handler = serve
    await endpoint.chat()
    await usage(endpoint.tenant, 1)
    assert await usage(owner, 0) == []
    footprint = (await owner.http.get(f"/v1/models/{endpoint.model_id}/catalog")).json()
    assert footprint["tokens_served"] == 11


async def test_a_stream_that_the_client_left_is_counted_by_its_events(endpoint: Endpoint, ready: LinkAgent) -> None:
    async def ask() -> httpx.Response:
        request = endpoint.http.build_request("POST", "/chat/completions", content=b'{"user": "%s"}' % (b"x" * 28))
        return await endpoint.http.send(request, stream=True)

    asked = asyncio.ensure_future(ask())
    request, _ = await ready.request()
    await ready.send(Head(request.stream, 200, "text/event-stream"))
    await ready.send(Chunk(request.stream, b'data: 1\n\ndata: {"text": "data: data:"}\n\n'))
    await (await asked).aclose()
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["errors"], row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (0, 10, 2, True)


async def test_who_leaves_before_an_answer_is_counted_the_prompt(endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat(b'{"user": "%s"}' % (b"x" * 28)))
    await ready.request()
    asked.cancel()
    (row,) = await usage(endpoint.tenant, 1)
    assert (row["errors"], row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (0, 10, 0, True)


async def test_what_was_counted_last_is_written_at_the_end(
    app: Application, endpoint: Endpoint, ready: LinkAgent
) -> None:
    ready.handler = serve
    await endpoint.chat()
    await app._router.stop()
    rows = (await endpoint.tenant.http.get("/v1/usage")).json()["data"]
    assert [row["requests"] for row in rows] == [1]


async def test_metrics(endpoint: Endpoint, ready: LinkAgent, anonymous: httpx.AsyncClient) -> None:
    ready.handler = serve
    await endpoint.chat()
    await endpoint.http.post("/nonsense")
    text = (await anonymous.get("/metrics")).text
    assert 'modelshare_inference_requests_total{route="chat/completions",status="200"} 1.0' in text
    assert 'modelshare_inference_requests_total{route="other",status="404"} 1.0' in text
    assert 'modelshare_inference_tokens_total{kind="completion"} 8.0' in text
    assert "modelshare_inference_under_way 0.0" in text


async def test_a_slug_used_again_inherits_nothing(endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    await endpoint.chat()
    await usage(endpoint.tenant, 1)
    http = endpoint.tenant.http
    spec = {"slug": "other", "model": endpoint.model_id, "tier": "self_hosted"}  # so that the agent keeps the model
    assert (await http.post("/v1/endpoints", json=spec)).status_code == 201
    assert (await http.delete("/v1/endpoints/chat")).status_code == 204
    (row,) = await usage(endpoint.tenant, 1, group_by="endpoint")
    assert row["endpoint"] == "chat"
    assert (await http.post("/v1/endpoints", json={**spec, "slug": "chat"})).status_code == 201
    await endpoint.is_("active")
    await endpoint.chat()
    await endpoint.chat()
    for group_by in ("endpoint", "day,endpoint,model,key"):
        rows = await usage(endpoint.tenant, 3, group_by=group_by)
        assert {row["endpoint"]: row["requests"] for row in rows} == {"chat": 2, "chat (deleted)": 1}
