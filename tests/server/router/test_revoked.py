"""What happens to requests under way when their key, their endpoint or their agent is taken away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import update

from conftest import Tenant
from link_agent import LinkAgent, answer
from modelshare.server.accounts.tables import KeyRow
from modelshare.server.app import Application
from modelshare.server.router import in_flight
from modelshare.server.settings import Settings
from modelshare.wire.link import Chunk, CloseCode, End, Head, Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
Ask = Callable[[], Awaitable[httpx.Response]]


class Caller:
    """Calls the endpoint with a key of its own, which can be taken away."""

    def __init__(self, endpoint: Endpoint, key: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.id = str(key["id"])
        self.http = httpx.AsyncClient(base_url=endpoint.base_url, headers={"Authorization": f"Bearer {key['key']}"})

    def ask(self) -> asyncio.Task[httpx.Response]:
        request = self.http.build_request("POST", "/chat/completions", content=b"{}")
        return asyncio.ensure_future(self.http.send(request, stream=True))

    async def revoke(self) -> None:
        assert (await self.endpoint.tenant.http.delete(f"/v1/keys/{self.id}")).status_code == 204


@pytest.fixture
async def caller(endpoint: Endpoint, request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    """With `@pytest.mark.parametrize("key", [{...}])`, the key has these fields."""
    fields = request.getfixturevalue("key") if "key" in request.fixturenames else {}
    made = await endpoint.tenant.http.post("/v1/keys", json={"name": "app", **fields})
    caller = Caller(endpoint, made.json())
    async with caller.http:
        yield caller


async def started(caller: Caller, agent: LinkAgent) -> tuple[httpx.Response, Request]:
    """A streamed answer whose first event is there."""
    asked = caller.ask()
    request, _ = await agent.request()
    await agent.send(Head(request.stream, 200, "text/event-stream"))
    await agent.send(Chunk(request.stream, b"data: 1\n\n"))
    return await asked, request


def error_of(body: bytes) -> dict[str, Any]:
    """What the last event says."""
    event = json.loads(body.strip().rsplit(b"data: ", 1)[-1])
    return dict(event["error"])


async def cancelled(agent: LinkAgent, request: Request) -> None:
    async def heard() -> bool:
        return request.stream in agent.cancelled

    await wait_until(heard)


async def test_a_stream_is_cut_with_an_error(caller: Caller, ready: LinkAgent) -> None:
    streamed, request = await started(caller, ready)
    await caller.revoke()
    body = await streamed.aread()
    assert body.startswith(b"data: 1\n\n")
    assert error_of(body)["type"] == "authentication_error"
    assert "revoked" in error_of(body)["message"]
    await cancelled(ready, request)


async def test_a_stream_is_cut_when_its_key_is_suspended(caller: Caller, ready: LinkAgent) -> None:
    streamed, request = await started(caller, ready)
    keys = caller.endpoint.tenant.http
    assert (await keys.post(f"/v1/keys/{caller.id}/suspend")).status_code == 200
    assert "suspended" in error_of(await streamed.aread())["message"]
    await cancelled(ready, request)
    refused = await caller.ask()
    assert (refused.status_code, "suspended" in (await refused.aread()).decode()) == (401, True)
    assert (await keys.post(f"/v1/keys/{caller.id}/resume")).status_code == 200
    again, _ = await started(caller, ready)
    assert again.status_code == 200
    await again.aclose()


async def test_an_unanswered_request_is_refused(caller: Caller, ready: LinkAgent) -> None:
    asked = caller.ask()
    request, _ = await ready.request()
    await caller.revoke()
    answered = await asked
    await answered.aread()
    assert (answered.status_code, answered.json()["error"]["type"]) == (401, "authentication_error")
    assert answered.headers["www-authenticate"] == "Bearer"
    await cancelled(ready, request)


async def test_a_request_whose_body_is_still_coming_is_refused(caller: Caller, ready: LinkAgent) -> None:
    request = caller.http.build_request("POST", "/chat/completions", content=b"{}")
    reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
    head = f"POST {request.url.path} HTTP/1.1\r\nhost: test\r\nauthorization: {request.headers['authorization']}\r\n"
    writer.write(f"{head}content-length: 1000\r\n\r\n{{".encode())
    await wait_until(lambda: _runs(caller))
    await caller.revoke()
    assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 401")
    writer.close()


async def _runs(caller: Caller) -> bool:
    text = (await caller.http.get(httpx.URL(caller.endpoint.base_url).join("/metrics"))).text
    return "modelshare_inference_under_way 1.0" in text


async def test_others_go_on(caller: Caller, endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = asyncio.ensure_future(endpoint.chat())
    other, _ = await ready.request()
    streamed, request = await started(caller, ready)
    await caller.revoke()
    await streamed.aread()
    await cancelled(ready, request)
    await ready.send(answer(other, b"{}"))
    assert (await asked).status_code == 200


async def test_tokens_so_far_are_counted(caller: Caller, endpoint: Endpoint, ready: LinkAgent) -> None:
    streamed, request = await started(caller, ready)
    await ready.send(Chunk(request.stream, b"data: 2\n\ndata: 3\n\n"))
    events = streamed.aiter_raw()
    seen = b""
    while seen.count(b"data:") < 3:
        seen += await anext(events)
    await caller.revoke()

    async def counted() -> list[int]:
        rows = (await endpoint.tenant.http.get("/v1/usage?group_by=key")).json()["data"]
        return [row["completion_tokens"] for row in rows if row["key"] == caller.id]

    assert await wait_until(counted) == [3]


async def test_a_client_that_does_not_read_is_cut_too(caller: Caller, ready: LinkAgent) -> None:
    streamed, request = await started(caller, ready)

    async def fill() -> None:
        while True:
            await ready.chunk(request, b"data: " + b"x" * 65_528 + b"\n\n")

    filling = asyncio.ensure_future(fill())
    await wait_until(lambda: _stands_still(ready, request))
    await caller.revoke()
    await cancelled(ready, request)
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    await streamed.aclose()


async def _stands_still(agent: LinkAgent, request: Request) -> bool:
    before = agent.credit.get(request.stream, 0)
    await asyncio.sleep(0.3)
    return before > 0 and agent.credit[request.stream] == before


@pytest.mark.parametrize("key", [{"expires_in": 3600}])
async def test_a_key_that_expires(app: Application, key: object, ready: LinkAgent, caller: Caller) -> None:
    streamed, request = await started(caller, ready)
    async with app.database.write() as session:  # as if the hour had passed: nobody is notified
        await session.execute(update(KeyRow).values(expires_at=app.platform.now()).where(KeyRow.id == UUID(caller.id)))
    assert error_of(await streamed.aread())["type"] == "authentication_error"
    await cancelled(ready, request)


async def test_an_old_value_runs_on_in_its_grace_and_no_longer(caller: Caller, ready: LinkAgent) -> None:
    streamed, request = await started(caller, ready)
    keys = caller.endpoint.tenant.http
    assert (await keys.post(f"/v1/keys/{caller.id}/rotate")).status_code == 200
    await asyncio.sleep(2 * in_flight.CHECK_SECONDS)  # long enough for a look that must not cut
    await ready.send(Chunk(request.stream, b"data: 2\n\n"))
    assert (await keys.post(f"/v1/keys/{caller.id}/rotate")).status_code == 200
    body = await streamed.aread()
    assert b"data: 2" in body
    assert error_of(body)["type"] == "authentication_error"


class TestOff:
    """`keys_cut_streams = false`."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"keys_cut_streams": False})

    async def test_a_stream_may_end_and_new_requests_are_refused(self, caller: Caller, ready: LinkAgent) -> None:
        streamed, request = await started(caller, ready)
        await caller.revoke()
        assert (await caller.ask()).status_code == 401
        await asyncio.sleep(2 * in_flight.CHECK_SECONDS)  # long enough for a look that must not cut
        await ready.send(Chunk(request.stream, b"data: [DONE]\n\n"))
        await ready.send(End(request.stream, None, 3, 2))
        assert await streamed.aread() == b"data: 1\n\ndata: [DONE]\n\n"


async def test_a_deactivated_endpoint_refuses_at_once_and_lets_streams_end(
    caller: Caller, endpoint: Endpoint, ready: LinkAgent
) -> None:
    streamed, request = await started(caller, ready)
    assert (await endpoint.tenant.http.patch("/v1/endpoints/chat", json={"is_active": False})).status_code == 200
    refused = await endpoint.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "endpoint_inactive")
    await ready.wanted(0)
    await ready.send(Chunk(request.stream, b"data: [DONE]\n\n"))
    await ready.send(End(request.stream, None, 3, 2))
    assert await streamed.aread() == b"data: 1\n\ndata: [DONE]\n\n"


async def test_a_deleted_endpoint_is_gone_at_once_and_lets_streams_end(
    caller: Caller, endpoint: Endpoint, ready: LinkAgent
) -> None:
    streamed, request = await started(caller, ready)
    assert (await endpoint.tenant.http.delete("/v1/endpoints/chat")).status_code == 204
    refused = await endpoint.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "endpoint_not_found")
    await ready.send(Chunk(request.stream, b"data: [DONE]\n\n"))
    await ready.send(End(request.stream, None, 3, 2))
    assert await streamed.aread() == b"data: 1\n\ndata: [DONE]\n\n"


async def test_a_suspended_agent_ends_its_streams_in_words(
    app: Application, caller: Caller, ready: LinkAgent, deployer: Tenant
) -> None:
    streamed, _ = await started(caller, ready)
    answered = await deployer.http.patch(f"/v1/agents/{ready.agent_id}", json={"suspended": True})
    assert answered.status_code == 200
    assert (await ready.end())[0] == CloseCode.SUSPENDED
    assert error_of(await streamed.aread())["type"] == "server_error"
    await app.database.dropped()
    assert (await caller.ask()).status_code == 503
