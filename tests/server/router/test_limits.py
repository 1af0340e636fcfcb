"""The limits of a tier, as clients meet them."""

import asyncio

import pytest

from link_agent import LinkAgent, answer
from modelshare.wire.link import Request
from server.router.conftest import Endpoint

pytestmark = pytest.mark.anyio


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}", tokens=(30, 70)))


@pytest.mark.parametrize("limits", [{"requests_per_minute": 4}], indirect=True)
async def test_requests_per_minute_with_half_as_many_more(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    answers = [await endpoint.chat() for _ in range(7)]
    assert [one.status_code for one in answers] == [200] * 6 + [429]
    assert answers[6].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[6].json()["error"]["type"] == "rate_limit_error"
    assert 0 < int(answers[6].headers["retry-after"]) <= 15
    assert answers[3].headers["x-ratelimit-limit-requests"] == "4"
    assert answers[3].headers["x-ratelimit-remaining-requests"] == "2"
    assert answers[6].headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("limits", [{"tokens_per_minute": 150}], indirect=True)
async def test_tokens_per_minute_by_what_was_used(limits: object, endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    answers = [await endpoint.chat() for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert "150 tokens a minute" in answers[2].json()["error"]["message"]
    assert int(answers[2].headers["retry-after"]) <= 21
    assert answers[1].headers["x-ratelimit-remaining-tokens"] in {"50", "51"}


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


async def test_no_limit_no_header(endpoint: Endpoint, ready: LinkAgent) -> None:
    ready.handler = serve
    assert not [name for name in (await endpoint.chat()).headers if name.startswith("x-ratelimit")]
