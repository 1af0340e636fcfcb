"""A served platform with an endpoint whose agent is a stand-in for engine and machine."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import httpx
import pytest

from clock import Clock
from conftest import Tenant
from factories import make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from served import serving, wait_until


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """With `@pytest.mark.parametrize("limits", [{...}], indirect=True)`, the tier `self_hosted` has these limits."""
    limits = request.getfixturevalue("limits") if "limits" in request.fixturenames else {}
    text = resources.files("modelshare.server.sharing").joinpath("tiers.toml").read_text(encoding="utf-8")
    head, own = text.split("[self_hosted]")
    for name, value in limits.items():
        own = re.sub(rf"^{name} = .*\n", "", own, flags=re.MULTILINE) + f"{name} = {value}\n"
    file = tmp_path / "tiers.toml"
    file.write_text(f"{head}[self_hosted]{own}", encoding="utf-8")
    return settings.model_copy(update={"tiers_file": file, "inference_max_body_bytes": 2 << 20})


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> dict[str, int]:
    found: dict[str, int] = request.param
    return found


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


@pytest.fixture
def deadlines(app: Application, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which requests take too long. Comes before the first request."""
    clock = Clock()
    clock.now = time.monotonic()
    monkeypatch.setattr(app._router, "now", clock)
    return clock


@pytest.fixture
def refills(app: Application, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which limits per minute are filled up again. Comes before the first request."""
    clock, admission = Clock(), app._router.admission
    monkeypatch.setattr(admission, "_clock", clock)
    monkeypatch.setattr(admission._limits, "clock", clock)
    return clock


@dataclass(frozen=True)
class Endpoint:
    """An endpoint and a client that calls it with the deployer's key."""

    slug: str
    base_url: str
    model_id: str
    http: httpx.AsyncClient
    tenant: Tenant

    async def is_(self, status: str) -> None:
        """Waits until it has this status."""

        async def check() -> bool:
            return bool((await self.tenant.http.get(f"/v1/endpoints/{self.slug}")).json()["status"] == status)

        await wait_until(check)

    async def chat(self, body: bytes = b"{}") -> httpx.Response:
        return await self.http.post("/chat/completions", content=body)


@pytest.fixture
async def endpoint(app: Application, url: str, owner: Tenant, deployer: Tenant) -> AsyncIterator[Endpoint]:
    """The deployer's endpoint `chat` on `self_hosted`, of a model that the owner shares; nobody serves it yet."""
    model_id = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model_id}/share")).status_code == 200
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    base_url = f"{url}/{deployer.project.id}/chat/v1"
    headers = {"Authorization": f"Bearer {deployer.project.api_key}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers) as http:
        yield Endpoint("chat", base_url, str(model_id), http, deployer)


@pytest.fixture
async def agent(url: str, deployer: Tenant) -> AsyncIterator[LinkAgent]:
    """The deployer's machine, linked."""
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token, agent_id=agent_id) as link:
        yield link


@pytest.fixture
async def ready(endpoint: Endpoint, agent: LinkAgent) -> LinkAgent:
    """The machine, with the endpoint's model ready."""
    await agent.make_ready()
    await endpoint.is_("active")
    return agent
