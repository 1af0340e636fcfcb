"""The limits of a tier, as clients meet them."""

import asyncio
from typing import Any

import pytest

from conftest import ON_SQLITE
from link_agent import LinkAgent, answer
from modelshare.wire.link import Request
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}", tokens=(30, 70)))


@pytest.mark.parametrize("limits", [{"requests_per_minute": 4}], indirect=True)
@pytest.mark.usefixtures("refills")
async def test_requests_per_minute_with_half_as_many_more(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    answers = [await endpoint.chat() for _ in range(7)]
    assert [one.status_code for one in answers] == [200] * 6 + [429]
    assert answers[6].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[6].json()["error"]["type"] == "rate_limit_error"
    assert answers[6].headers["retry-after"] == "15"
    assert answers[3].headers["x-ratelimit-limit-requests"] == "4"
    assert answers[3].headers["x-ratelimit-remaining-requests"] == "2"
    assert answers[6].headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("limits", [{"tokens_per_minute": 150}], indirect=True)
@pytest.mark.usefixtures("refills")
async def test_tokens_per_minute_by_what_was_used(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    answers = [await endpoint.chat() for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert "150 tokens per minute" in answers[2].json()["error"]["message"]
    assert answers[2].headers["retry-after"] == "20"
    assert answers[1].headers["x-ratelimit-remaining-tokens"] == "50"


@pytest.mark.parametrize("limits", [{"max_concurrent_requests": 2}], indirect=True)
async def test_so_many_at_once(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    asked = [asyncio.ensure_future(endpoint.chat()) for _ in range(2)]
    requests = [await ready.request() for _ in asked]
    refused = await endpoint.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "capacity_exceeded")
    assert refused.headers["retry-after"] == "1"
    for request, _ in requests:
        await ready.send(answer(request, b"{}"))
    assert [(await one).status_code for one in asked] == [200, 200]
    ready.handler = serve
    assert (await endpoint.chat()).status_code == 200


@pytest.mark.parametrize("limits", [{"max_concurrent_requests": 4}], indirect=True)
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("chat/completions", {"n": 4}),
        ("completions", {"prompt": ["a", "b"], "n": 2}),
        ("completions", {"prompt": "a", "n": 1, "best_of": 4}),
        ("embeddings", {"input": ["a"] * 32}),
    ],
)
async def test_what_an_engine_works_on_is_counted_and_not_requests(
    limits: object, endpoint: Endpoint, ready: LinkAgent, route: str, body: dict[str, Any]
) -> None:
    asked = asyncio.ensure_future(endpoint.http.post(f"/{route}", json=body))
    request, _ = await ready.request()
    refused = await endpoint.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "capacity_exceeded")
    await ready.send(answer(request, b"{}"))
    assert (await asked).status_code == 200
    ready.handler = serve
    assert (await endpoint.chat()).status_code == 200


CAPPED = {"max_sequences_per_request": 6, "max_inputs_per_request": 3}


@pytest.mark.parametrize("limits", [CAPPED], indirect=True)
@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("chat/completions", {"n": 7}, "n"),
        ("completions", {"prompt": ["a"] * 7}, "prompt"),
        ("completions", {"prompt": ["a", "b"], "n": 4}, "n"),
        ("completions", {"prompt": [[1], [2], [3], [4]], "best_of": 2}, "prompt"),
        ("embeddings", {"input": ["a"] * 4}, "input"),
        ("embeddings", {"input": [[1]] * 4}, "input"),
        ("chat/completions", {"n": 0}, "n"),
        ("completions", {"prompt": "a", "best_of": 129}, "best_of"),
        ("completions", {}, "prompt"),
    ],
)
async def test_one_request_may_bring_so_much(
    limits: object, endpoint: Endpoint, ready: LinkAgent, route: str, body: dict[str, Any], param: str
) -> None:
    ready.handler = serve
    refused = await endpoint.http.post(f"/{route}", json=body)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert f"`{param}`" in error["message"]
    assert "x-request-id" in refused.headers
    within = {"prompt": ["a", "b"], "n": 3, "input": [[1, 2], [3], [4]]}
    assert (await endpoint.http.post(f"/{route}", json=within)).status_code == 200


async def test_every_tier_says_what_one_request_may_bring(endpoint: Endpoint) -> None:
    tiers = (await endpoint.tenant.http.get("/v1/tiers")).json()["data"]
    assert {tier["max_sequences_per_request"] for tier in tiers} == {128}
    assert {tier["max_inputs_per_request"] for tier in tiers} == {2048}


async def test_no_limit_no_header(endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    assert not [name for name in (await endpoint.chat()).headers if name.startswith("x-ratelimit")]
