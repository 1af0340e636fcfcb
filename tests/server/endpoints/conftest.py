"""A model that another project deployed, on its machine."""

from collections.abc import AsyncIterator

import pytest

from conftest import Tenant
from factories import make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from recalling import begins, endpoint_is
from served import serving


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


@pytest.fixture
async def model(app: Application, owner: Tenant) -> str:
    """Shared."""
    model = str(await make_model(app, owner.project.id))
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    return model


@pytest.fixture
async def deployed(deployer: Tenant, model: str) -> str:
    """The deployer's endpoint; its slug."""
    spec = {"slug": "chat", "model": model, "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    return "chat"


@pytest.fixture
async def machine(url: str, deployer: Tenant, deployed: str) -> AsyncIterator[LinkAgent]:
    """The deployer's machine, with the endpoint's model ready."""
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token, agent_id=agent_id, handler=begins) as link:
        await link.make_ready()
        await endpoint_is(deployer, "active")
        yield link
