"""Inference goes on in a process whose database was upgraded beyond it."""

import pytest

from link_agent import LinkAgent, answer
from modelshare.server.app import Application
from modelshare.wire.link import Request
from server.router.conftest import Endpoint
from server.test_upgrades import NEWER, schema

pytestmark = pytest.mark.anyio


async def answers(link: LinkAgent, request: Request, _: bytes) -> None:
    await link.send(answer(request, b'{"choices": []}'))


async def test_endpoints_answer_while_nothing_can_be_written(
    app: Application, endpoint: Endpoint, ready: LinkAgent
) -> None:
    ready.handler = answers
    async with schema(app, NEWER, NEWER):
        assert (await endpoint.tenant.http.post("/v1/keys", json={"name": "late"})).status_code == 503
        for _ in range(3):
            reply = await endpoint.chat()
            assert reply.status_code == 200, reply.text
