"""Grants from a server that is busy, gone, or of another mind."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from agent.support import serving
from modelshare.agent.errors import GrantGoneError, PullError
from modelshare.agent.server_api import ServerApi
from modelshare.wire.agents import Grant

pytestmark = pytest.mark.anyio

GRANT = Grant(deployment_id="dep_1", manifest_digest="sha256:a", files=[], expires_at=1)


class Server:
    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.url = ""
        self.tokens: list[str] = []

    async def grant(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers["Authorization"])
        assert request.match_info["deployment"] == "dep_1"
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, text=GRANT.model_dump_json(), content_type="application/json")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    there = Server()
    app = web.Application()
    app.router.add_post("/v1/agent/deployments/{deployment}/grant", there.grant)
    async with serving(app) as there.url:
        yield there


async def ask(url: str) -> Grant:
    async with aiohttp.ClientSession() as http:
        return await ServerApi(http, url + "/", "msa_x", retry_first=0.001).grant("dep_1")


async def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.statuses = [503, 500]
    assert await ask(server.url) == GRANT
    assert server.tokens == ["Bearer msa_x"] * 3


@pytest.mark.parametrize("status", [403, 404])
async def test_a_deployment_of_somebody_else_is_told_at_once(server: Server, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(GrantGoneError, match="no longer assigns this deployment to this agent"):
        await ask(server.url)
    assert len(server.tokens) == 1


async def test_a_server_that_stays_busy_fails_in_words(server: Server) -> None:
    server.statuses = [503] * 99
    with pytest.raises(PullError, match=r"did not grant access to the weights \(HTTP 503\)"):
        await ask(server.url)


async def test_a_server_that_is_gone_fails_in_words() -> None:
    with pytest.raises(PullError, match="did not grant access to the weights"):
        await ask("http://127.0.0.1:9")
