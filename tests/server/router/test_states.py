"""What each state of an endpoint makes of a request."""

import pytest

from conftest import Tenant
from link_agent import LinkAgent, answer
from modelshare.wire.agents import Phase
from modelshare.wire.link import Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}"))


async def refused(endpoint: Endpoint, words: str, code: str | None) -> None:
    """Waits for a 503 with these words."""

    async def check() -> bool:
        answered = await endpoint.chat()
        error = answered.json().get("error", {})
        if answered.status_code != 503 or words not in error["message"]:
            return False
        assert error["code"] == code
        assert int(answered.headers["retry-after"]) > 0
        return True

    await wait_until(check)


async def test_nobody_is_there_yet(endpoint: Endpoint) -> None:
    await refused(endpoint, "No agent of your project is connected", "model_loading")


async def test_on_its_way(endpoint: Endpoint, agent: LinkAgent) -> None:
    (wanted,) = await agent.wanted(1)
    await agent.report(wanted.deployment_id, Phase.PULLING, bytes_done=300_000_000, bytes_total=1_200_000_000)
    await refused(endpoint, "300.0 MB of 1.2 GB (25 %)", "model_loading")
    await agent.report(wanted.deployment_id, Phase.LOADING)
    await refused(endpoint, "is being loaded", "model_loading")
    assert (await endpoint.http.get("/models")).status_code == 503


async def test_failed(endpoint: Endpoint, agent: LinkAgent) -> None:
    (wanted,) = await agent.wanted(1)
    await agent.report(wanted.deployment_id, Phase.FAILED, reason="It needs 80 GB of memory.")
    await refused(endpoint, "It needs 80 GB of memory.", None)


async def test_degraded(endpoint: Endpoint, ready: LinkAgent) -> None:
    await ready.socket.close()
    await refused(endpoint, "It reconnects", None)


async def test_switched_off_and_on(endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    assert (await endpoint.chat()).status_code == 200
    await endpoint.tenant.http.patch("/v1/endpoints/chat", json={"is_active": False})
    answered = await endpoint.chat()
    assert (answered.status_code, answered.json()["error"]["code"]) == (503, "endpoint_inactive")
    await ready.wanted(0)
    await endpoint.tenant.http.patch("/v1/endpoints/chat", json={"is_active": True})
    await ready.make_ready()
    await endpoint.is_("active")
    assert (await endpoint.chat()).status_code == 200


async def test_deleted(endpoint: Endpoint, ready: LinkAgent) -> None:
    await endpoint.tenant.http.delete("/v1/endpoints/chat")
    answered = await endpoint.chat()
    assert (answered.status_code, answered.json()["error"]["code"]) == (404, "endpoint_not_found")


async def test_an_unshared_model_is_still_answered(endpoint: Endpoint, ready: LinkAgent, owner: Tenant) -> None:
    ready.handler = serve
    assert (await owner.http.post(f"/v1/models/{endpoint.model_id}/unshare")).status_code == 200
    assert (await endpoint.chat()).status_code == 200
    spec = {"slug": "again", "model": endpoint.model_id, "tier": "self_hosted"}
    assert (await endpoint.tenant.http.post("/v1/endpoints", json=spec)).status_code == 404
