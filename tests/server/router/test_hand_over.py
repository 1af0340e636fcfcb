"""A request waits for an agent that is changing connections, and for no other."""

import asyncio
from typing import Any

import pytest

from clock import Clock
from conftest import ON_SQLITE, Tenant
from link_agent import LinkAgent, answer, enroll, hello_of, linked
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from modelshare.wire.agents import Phase
from modelshare.wire.link import CloseCode, Request
from served import wait_until
from server.router.conftest import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]
FOR_EVER = 60


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Requests wait for longer than a test takes, so that one that does is noticed."""
    return settings.model_copy(update={"handover_seconds": FOR_EVER})


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, b"{}"))


def cut(agent: LinkAgent) -> None:
    """Ends the connection without a word."""
    connection = agent.socket._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()


async def is_ready(endpoint: Endpoint, agent: LinkAgent) -> None:
    agent.handler = serve
    await agent.make_ready()
    await endpoint.is_("active")
    assert (await endpoint.chat()).status_code == 200


async def waits(asked: "asyncio.Task[Any]", app: Application) -> None:
    async def waiting() -> bool:
        return any(call.may_wait and call._gives_up_at is not None for call in app._router._calls)

    await wait_until(waiting)
    assert not asked.done()


@pytest.mark.parametrize("instance", ["", "run"])
async def test_until_the_agent_is_connected_again(
    endpoint: Endpoint, app: Application, url: str, deployer: Tenant, instance: str
) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token, hello=hello_of(instance)) as agent:
        await is_ready(endpoint, agent)
        cut(agent)
        asked = asyncio.create_task(endpoint.chat())
        await waits(asked, app)
        async with linked(url, token, handler=serve, hello=hello_of(instance)) as again:
            if not instance:  # else nothing has changed at the agent
                await again.make_ready()
            assert (await asked).status_code == 200


async def test_while_the_agent_has_not_reported_yet(
    endpoint: Endpoint, app: Application, url: str, deployer: Tenant
) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await is_ready(endpoint, agent)
        async with linked(url, token, handler=serve) as newer:
            assert (await agent.end())[0] == CloseCode.REPLACED
            (wanted,) = await newer.wanted()
            asked = asyncio.create_task(endpoint.chat())
            await waits(asked, app)
            await newer.report(wanted.deployment_id, Phase.READY)
            assert (await asked).status_code == 200


async def test_a_request_that_the_agent_had_is_sent_again(
    endpoint: Endpoint, app: Application, url: str, deployer: Tenant
) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token, hello=hello_of("run")) as agent:
        await is_ready(endpoint, agent)
        agent.handler = None
        asked = asyncio.create_task(endpoint.chat())
        await agent.request()
        cut(agent)
        await waits(asked, app)
        async with linked(url, token, handler=serve, hello=hello_of("run")):
            assert (await asked).status_code == 200


async def test_no_longer_than_the_setting(
    endpoint: Endpoint, app: Application, url: str, deployer: Tenant, deadlines: Clock
) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await is_ready(endpoint, agent)
        cut(agent)
        asked = asyncio.create_task(endpoint.chat())
        await waits(asked, app)
        deadlines.now += FOR_EVER - 1
        await asyncio.sleep(0.5)  # long enough for a look that must not refuse
        assert not asked.done()
        deadlines.now += 1
        answered = await asked
        assert (answered.status_code, "disconnected" in answered.text) == (503, True)
        assert answered.headers["retry-after"]


async def test_not_for_an_agent_that_said_goodbye(endpoint: Endpoint, url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await is_ready(endpoint, agent)
        await agent.socket.close()
        await endpoint.is_("degraded")
        assert (await asyncio.wait_for(endpoint.chat(), FOR_EVER / 2)).status_code == 503


async def test_not_for_an_endpoint_that_was_never_ready(endpoint: Endpoint, url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await agent.wanted()
        assert (await asyncio.wait_for(endpoint.chat(), FOR_EVER / 2)).status_code == 503


async def test_not_while_the_agent_loads_the_model(endpoint: Endpoint, url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await is_ready(endpoint, agent)
    async with linked(url, token) as agent:
        (wanted,) = await agent.wanted()
        await agent.report(wanted.deployment_id, Phase.LOADING)

        async def loading() -> bool:
            answered = await asyncio.wait_for(endpoint.chat(), FOR_EVER / 2)
            return answered.status_code == 503 and "loaded" in answered.text

        await wait_until(loading)
