"""Limits of keys, budgets of the month, and what is left of them, as clients meet them."""

from typing import Any

import httpx
import pytest

from conftest import ON_SQLITE
from link_agent import LinkAgent, answer
from modelshare.server.app import Application
from modelshare.wire.link import Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]
PRICED = {"price_per_million_tokens": 10_000.0}
"""An answer of a hundred tokens costs 1."""


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}", tokens=(30, 70)))


async def with_key(endpoint: Endpoint, **limits: int) -> tuple[httpx.AsyncClient, str]:
    made = (await endpoint.tenant.http.post("/v1/keys", json={"name": "app", **limits})).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    return httpx.AsyncClient(base_url=endpoint.base_url, headers=headers), made["id"]


async def chat(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post("/chat/completions", content=b"{}")


async def shown(endpoint: Endpoint) -> dict[tuple[str, str], dict[str, Any]]:
    rows = (await endpoint.tenant.http.get("/v1/usage/limits")).json()["data"]
    return {(row["subject"], row["kind"]): row for row in rows}


async def told(endpoint: Endpoint) -> list[str]:
    log = (await endpoint.tenant.http.get("/v1/audit", params={"action": "budget"})).json()["data"]
    return [entry["action"] for entry in reversed(log)]


@pytest.mark.parametrize("limits", [{"requests_per_minute": 100}], indirect=True)
@pytest.mark.usefixtures("refills")
async def test_a_key_has_limits_of_its_own(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    http, key_id = await with_key(endpoint, requests_per_minute=3)
    async with http:
        answers = [await chat(http) for _ in range(4)]
        assert [one.status_code for one in answers] == [200] * 3 + [429]
        assert answers[3].json()["error"]["message"] == "This key may send 3 requests per minute. Try again in 20 s."
        assert [one.headers["x-ratelimit-remaining-requests"] for one in answers] == ["2", "1", "0", "0"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3", "the tighter of the two"
        other = await endpoint.chat()
        assert (other.status_code, other.headers["x-ratelimit-limit-requests"]) == (200, "100")
        await endpoint.tenant.http.patch(f"/v1/keys/{key_id}", json={"requests_per_minute": None})

        async def is_free() -> bool:
            return (await chat(http)).status_code == 200

        await wait_until(is_free)


@pytest.mark.usefixtures("refills")
async def test_tokens_of_a_key(endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    http, _ = await with_key(endpoint, tokens_per_minute=150)
    async with http:
        assert [(await chat(http)).status_code for _ in range(3)] == [200, 200, 429]
    assert (await endpoint.chat()).status_code == 200


async def test_a_key_whose_budget_is_used_up(app: Application, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    http, key_id = await with_key(endpoint, monthly_token_budget=250)
    async with http:
        assert [(await chat(http)).status_code for _ in range(3)] == [200] * 3
        refused = await chat(http)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
        assert "scope `keys`" in refused.json()["error"]["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400
        assert (await endpoint.chat()).status_code == 200

        async def warned() -> bool:
            return await told(endpoint) == ["budget.warn", "budget.exhaust"]

        await wait_until(warned)
        state = (await shown(endpoint))["key", "monthly_tokens"]
        assert (state["id"], state["limit"], state["used"], state["remaining"]) == (key_id, 250, 300, 0)
        await endpoint.tenant.http.patch(f"/v1/keys/{key_id}", json={"monthly_token_budget": 1000})

        async def is_raised() -> bool:
            return (await chat(http)).status_code == 200

        await wait_until(is_raised)


@pytest.mark.parametrize("limits", [PRICED], indirect=True)
async def test_a_projects_budget_in_money(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    for _ in range(2):
        assert (await endpoint.chat()).status_code == 200
    await wait_until(lambda: _are_metered(endpoint, 2))
    await endpoint.tenant.http.patch("/v1/project", json={"monthly_budget": 4.5})
    await wait_until(lambda: _status(endpoint, 429))
    refused = await endpoint.chat()
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert refused.json()["error"]["message"].startswith("The project has used its budget of 4.5 of 20")
    await wait_until(lambda: _begins(endpoint, ["budget.warn", "budget.exhaust"]))
    state = (await shown(endpoint))["project", "monthly_budget"]
    assert (state["limit"], state["remaining"]) == (4.5, 0)
    assert state["used"] >= 5, "with what was used before"
    await endpoint.tenant.http.patch("/v1/project", json={"monthly_budget": 1.5 * state["used"]})
    await wait_until(lambda: _status(endpoint, 200))

    async def is_told_again() -> bool:
        await endpoint.chat()
        return await _begins(endpoint, ["budget.warn", "budget.exhaust", "budget.warn"])

    await wait_until(is_told_again)


@pytest.mark.parametrize("limits", [PRICED], indirect=True)
async def test_a_new_budget_shows_at_once_what_was_used_before(
    limits: object, endpoint: Endpoint, ready: LinkAgent
) -> None:
    ready.handler = serve
    http, key_id = await with_key(endpoint)
    async with http:
        assert (await chat(http)).status_code == 200
    assert (await endpoint.chat()).status_code == 200
    await wait_until(lambda: _are_metered(endpoint, 2))
    await endpoint.tenant.http.patch("/v1/project", json={"monthly_budget": 2.5})
    await endpoint.tenant.http.patch(f"/v1/keys/{key_id}", json={"monthly_token_budget": 1000})
    found = await shown(endpoint)
    assert (found["project", "monthly_budget"]["used"], found["key", "monthly_tokens"]["used"]) == (2, 100)


async def _are_metered(endpoint: Endpoint, requests: int) -> bool:
    rows = (await endpoint.tenant.http.get("/v1/usage")).json()["data"]
    return bool(sum(row["requests"] for row in rows) == requests)


async def _status(endpoint: Endpoint, status: int) -> bool:
    return (await endpoint.chat()).status_code == status


async def _begins(endpoint: Endpoint, actions: list[str]) -> bool:
    """Further ones may follow."""
    return (await told(endpoint))[: len(actions)] == actions


@pytest.mark.parametrize("limits", [{"requests_per_minute": 10, "tokens_per_minute": 1000}], indirect=True)
async def test_what_is_left_of_an_endpoints_limits(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    assert (await endpoint.chat()).status_code == 200
    found = await shown(endpoint)
    assert {kind for _, kind in found} == {"requests_per_minute", "tokens_per_minute", "concurrent_requests"}
    assert {row["name"] for row in found.values()} == {"chat"}
    assert found["endpoint", "requests_per_minute"]["remaining"] == 10
    assert 899 <= found["endpoint", "tokens_per_minute"]["remaining"] <= 1000
    assert found["endpoint", "concurrent_requests"]["used"] == 0
