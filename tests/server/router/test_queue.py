"""Requests that wait for their turn, where the tier has `queue_seconds`."""

import asyncio
import re
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from clock import Clock
from conftest import ON_SQLITE, Tenant
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import Application
from modelshare.wire.link import Answer, DeploymentLoad, Ping, Request
from served import wait_until
from server.router.conftest import Endpoint
from server.router.test_revoked import Caller
from shell import shell

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]

ONE_AT_ONCE = {"max_concurrent_requests": 1, "queue_seconds": 60}
FOR_A_MOMENT = {"max_concurrent_requests": 1, "queue_seconds": 7}
AT_MACHINES = {"queue_seconds": 60}


async def waiting(endpoint: Endpoint, count: int) -> None:
    """Waits until so many requests wait."""

    async def check() -> bool:
        return await figures(endpoint) == count

    await wait_until(check)


async def figures(endpoint: Endpoint) -> int:
    queue: dict[str, Any] = (await endpoint.tenant.http.get(f"/v1/endpoints/{endpoint.slug}")).json()["queue"]
    return int(queue["waiting"])


async def say(agent: LinkAgent, *, slots: int, running: int) -> None:
    """The machine says how busy it is, with requests of others."""
    await agent.send(Ping(loads=[DeploymentLoad(one.deployment_id, slots, running, 0) for one in await agent.wanted()]))


@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_requests_wait_in_order(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = []
    for number in range(4):
        asked.append(asyncio.ensure_future(endpoint.chat(b'{"user": "%d"}' % number)))
        if number:
            await waiting(endpoint, number)
        else:
            request, _ = await ready.request()
    for number in range(4):
        assert ready.requests.empty()
        await ready.send(answer(request, b"{}"))
        answered = await asked[number]
        assert answered.status_code == 200
        assert ("x-queue-seconds" in answered.headers) == (number > 0)
        if number < 3:
            request, body = await ready.request()
            assert body == b'{"user": "%d"}' % (number + 1)


@ON_SQLITE
@pytest.mark.parametrize("limits", [FOR_A_MOMENT], indirect=True)
async def test_who_waits_in_vain_is_told_for_how_long_and_at_which_place(
    limits: object, endpoint: Endpoint, ready: LinkAgent, deadlines: Clock
) -> None:
    first = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    asked = asyncio.ensure_future(endpoint.chat())
    await waiting(endpoint, 1)
    deadlines.now += 7
    refused = await asked
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "capacity_exceeded")
    message = refused.json()["error"]["message"]
    assert message.endswith("Wait for one to finish. The request waited for 7 s and was at place 1 of 1."), message
    assert refused.headers["x-queue-seconds"] == "7.000"
    assert (refused.headers["x-queue-place"], refused.headers["x-queue-length"]) == ("1", "1")
    assert refused.headers["retry-after"] == "1"
    await ready.send(answer(request, b"{}"))
    assert (await first).status_code == 200


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_a_key_that_is_revoked_leaves_the_queue(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    first = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    made = await endpoint.tenant.http.post("/v1/keys", json={"name": "app"})
    caller = Caller(endpoint, made.json())
    async with caller.http:
        asked = caller.ask()
        await waiting(endpoint, 1)
        await caller.revoke()
        assert (await asked).status_code == 401
    assert await figures(endpoint) == 0
    await ready.send(answer(request, b"{}"))
    assert (await first).status_code == 200
    assert ready.requests.empty()


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_a_client_that_leaves_gives_up_its_place(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    first, gone = (asyncio.ensure_future(endpoint.chat()) for _ in range(2))
    request, _ = await ready.request()
    await waiting(endpoint, 1)
    last = asyncio.ensure_future(endpoint.chat(b'{"user": "last"}'))
    await waiting(endpoint, 2)
    gone.cancel()
    await waiting(endpoint, 1)
    await ready.send(answer(request, b"{}"))
    request, body = await ready.request()
    assert body == b'{"user": "last"}'
    await ready.send(answer(request, b"{}"))
    assert [(await one).status_code for one in (first, last)] == [200, 200]


async def ask_at_length(endpoint: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begins a request whose body is not read before its turn, and fits into the operating system's buffers."""
    url, body = httpx.URL(endpoint.base_url), b'{"user": "%s"}' % (b"a" * (600 << 10))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        b"POST %s/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
        % (url.path.encode(), endpoint.tenant.project.api_key.encode(), len(body))
    )
    writer.write(body)
    return reader, writer


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_client_that_leaves_before_its_long_request_is_read_gives_up_its_place(
    limits: object, endpoint: Endpoint, ready: LinkAgent, how: str
) -> None:
    first = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    _, writer = await ask_at_length(endpoint)
    await waiting(endpoint, 1)
    if how == "reset":
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.close()
    await waiting(endpoint, 0)
    await ready.send(answer(request, b"{}"))
    assert (await first).status_code == 200


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_a_client_that_closes_only_its_half_keeps_its_place(
    limits: object, endpoint: Endpoint, ready: LinkAgent
) -> None:
    first = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    reader, writer = await ask_at_length(endpoint)
    writer.write_eof()
    await waiting(endpoint, 1)
    assert await reader.readexactly(1) == b"H", "to see whether it is still there"
    await ready.send(answer(request, b"{}"))
    assert (await first).status_code == 200
    request, _ = await ready.request()
    await ready.send(answer(request, b'{"ok": 1}'))
    answered = await reader.read()
    assert answered.startswith(b"TTP/1.1 200 OK\r\n")
    assert answered.endswith(b'{"ok": 1}')
    writer.close()


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_an_endpoint_that_is_deactivated_serves_nobody_who_waits(
    limits: object, endpoint: Endpoint, ready: LinkAgent
) -> None:
    first = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    asked = asyncio.ensure_future(endpoint.chat())
    await waiting(endpoint, 1)
    assert (await endpoint.tenant.http.patch("/v1/endpoints/chat", json={"is_active": False})).status_code == 200
    await ready.send(answer(request, b"{}"))
    await first
    refused = await asked
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "endpoint_inactive")


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}"))


@ON_SQLITE
@pytest.mark.parametrize(
    "limits", [{"requests_per_minute": 60, "burst_percent": 0, "queue_seconds": 20}], indirect=True
)
async def test_requests_per_minute(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    answers = await asyncio.gather(*(endpoint.chat() for _ in range(61)))
    assert {one.status_code for one in answers} == {200}


@ON_SQLITE
@pytest.mark.parametrize("limits", [{"requests_per_minute": 1, "burst_percent": 0, "queue_seconds": 5}], indirect=True)
async def test_who_would_wait_too_long_is_refused_at_once(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    assert (await endpoint.chat()).status_code == 200
    refused = await endpoint.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 5 < int(refused.headers["retry-after"]) <= 60
    assert "x-queue-seconds" not in refused.headers
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_the_queue_is_shown(
    limits: object, endpoint: Endpoint, ready: LinkAgent, url: str, tmp_path: Path
) -> None:
    asked = [asyncio.ensure_future(endpoint.chat()) for _ in range(3)]
    await waiting(endpoint, 2)
    terminal = shell(url, endpoint.tenant.project.api_key, tmp_path)
    shown = await asyncio.to_thread(terminal.run, "endpoints", "show", "chat")
    assert re.search(r"queue +2 requests wait, the longest for \d", shown.stdout), shown.stdout
    assert "modelshare_inference_waiting 2.0" in (await endpoint.tenant.http.get("/metrics")).text
    listed = (await endpoint.tenant.http.get("/v1/endpoints")).json()["data"]
    assert listed[0]["queue"] is None
    for one in asked:
        one.cancel()


@ON_SQLITE
async def test_without_a_queue_nothing_is_shown(endpoint: Endpoint) -> None:
    assert (await endpoint.tenant.http.get("/v1/endpoints/chat")).json()["queue"] is None


@ON_SQLITE
@pytest.mark.parametrize("limits", [ONE_AT_ONCE], indirect=True)
async def test_a_client_that_asks_first_may_send_its_body(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    first = asyncio.ensure_future(endpoint.chat())
    request, _ = await ready.request()
    address = endpoint.http.base_url
    reader, writer = await asyncio.open_connection(address.host, address.port)
    key = endpoint.tenant.project.api_key
    head = f"POST {address.path}chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    writer.write(f"{head}content-length: 2\r\nexpect: 100-continue\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await figures(endpoint) == 1
    writer.write(b"{}")
    await ready.send(answer(request, b"{}"))
    await first
    request, body = await ready.request()
    assert body == b"{}"
    await ready.send(answer(request, b"{}"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


@ON_SQLITE
@pytest.mark.parametrize("limits", [AT_MACHINES], indirect=True)
async def test_a_request_waits_for_a_free_slot(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    await say(ready, slots=2, running=2)
    asked = asyncio.ensure_future(endpoint.chat())
    await waiting(endpoint, 1)
    assert ready.requests.empty()
    await say(ready, slots=2, running=1)
    request, _ = await ready.request()
    await ready.send(answer(request, b"{}"))
    answered = await asked
    assert answered.status_code == 200
    assert float(answered.headers["x-queue-seconds"]) > 0


@ON_SQLITE
@pytest.mark.parametrize("limits", [{"queue_seconds": 0.2}], indirect=True)
async def test_machines_that_stay_busy(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    await say(ready, slots=2, running=2)

    async def is_heard() -> httpx.Response | None:
        """A refused request; before, the machine's word may not have come."""
        asked, sent = asyncio.ensure_future(endpoint.chat()), asyncio.ensure_future(ready.requests.get())
        await asyncio.wait([asked, sent], return_when=asyncio.FIRST_COMPLETED)
        if sent.done():
            await ready.send(answer(sent.result()[0], b"{}"))
            await asked
            return None
        sent.cancel()
        return await asked

    refused = await wait_until(is_heard)
    assert refused is not None
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "capacity_exceeded")
    assert "All machines that run this model are busy" in refused.json()["error"]["message"]
    assert refused.headers["x-queue-place"] == "1"


@ON_SQLITE
@pytest.mark.parametrize("limits", [AT_MACHINES], indirect=True)
async def test_an_engine_that_says_it_is_busy_is_asked_again(
    limits: object, endpoint: Endpoint, ready: LinkAgent
) -> None:
    asked = asyncio.ensure_future(endpoint.chat(b'{"user": "me"}'))
    request, _ = await ready.request()
    await ready.send(Answer(request.stream, 429, "application/json", b'{"error": {}}', retry_after=1))
    request, body = await ready.request()
    assert body == b'{"user": "me"}'
    await ready.send(answer(request, b"{}"))
    assert (await asked).status_code == 200


@ON_SQLITE
@pytest.mark.parametrize("limits", [AT_MACHINES], indirect=True)
async def test_a_machine_that_comes_takes_those_who_wait(
    limits: object, endpoint: Endpoint, ready: LinkAgent, deployer: Tenant, url: str
) -> None:
    await say(ready, slots=1, running=1)
    asked = asyncio.ensure_future(endpoint.chat())
    await waiting(endpoint, 1)
    agent_id, token = await enroll(deployer.http, name="second")
    async with linked(url, token, agent_id=agent_id) as second:
        await second.make_ready()
        request, _ = await second.request()
        await second.send(answer(request, b"{}"))
        assert (await asked).status_code == 200


@ON_SQLITE
async def test_projects_share_a_machine_by_their_weights(
    app: Application, url: str, owner: Tenant, deployer: Tenant, operator: httpx.AsyncClient
) -> None:
    tiers = app.platform.tiers
    tier = tiers.get("free")
    assert tier is not None
    weights = {"queue_seconds": 60, "weights": {deployer.project.id: 3}, "max_concurrent_requests": 50}
    tiers._tiers["free"] = tier.model_copy(update=weights)
    model_id = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model_id}/share")
    spec = {"slug": "chat", "model": str(model_id), "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    _, token = await enroll(operator, tiers=["free"])
    async with linked(url, token) as agent, httpx.AsyncClient(timeout=60) as http:
        await agent.make_ready()
        await say(agent, slots=1, running=0)

        async def chat(tenant: Tenant) -> httpx.Response:
            headers = {"Authorization": f"Bearer {tenant.project.api_key}"}
            address = f"{url}/{tenant.project.id}/chat/v1/chat/completions"
            return await http.post(address, content=b'{"user": "%s"}' % tenant.project.slug.encode(), headers=headers)

        for tenant in (owner, deployer):
            await Endpoint("chat", "", "", http, tenant).is_("active")
        asked = [asyncio.ensure_future(chat(owner))]
        request, _ = await agent.request()
        asked += [asyncio.ensure_future(chat(tenant)) for _ in range(12) for tenant in (owner, deployer)]
        for tenant in (owner, deployer):
            await waiting(Endpoint("chat", "", "", http, tenant), 12)
        served: list[bytes] = []
        for _ in asked:
            await agent.send(answer(request, b"{}"))
            if len(served) < len(asked) - 1:
                request, body = await agent.request()
                served.append(body)
        assert Counter(served[:12]) == {b'{"user": "borg"}': 9, b'{"user": "acme"}': 3}
        assert {(await one).status_code for one in asked} == {200}


@pytest.mark.parametrize("limits", [{"queue_seconds": 600}], indirect=True)
async def test_a_key_that_waits_for_its_own_limit_holds_up_no_other(
    limits: object, endpoint: Endpoint, ready: LinkAgent
) -> None:
    ready.handler = serve
    made = await endpoint.tenant.http.post("/v1/keys", json={"name": "app", "requests_per_minute": 1})
    caller = Caller(endpoint, made.json())
    async with caller.http:
        assert (await caller.ask()).status_code == 200
        asked = caller.ask()
        await waiting(endpoint, 1)
        assert (await endpoint.chat()).status_code == 200
        assert await figures(endpoint) == 1
        asked.cancel()
