"""Files that go directly: from the machine of their owner, and between agents of one project on one network."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.direct import LOOPBACK
from conftest import Tenant
from holding import held
from link_agent import enroll, linked
from modelshare.agent.cache import Cache
from modelshare.agent.direct.sources import DirectReader
from modelshare.agent.hold.limits import Hours, Rate
from modelshare.agent.pull import Puller
from modelshare.agent.server_api import ServerApi
from modelshare.demo.tiny_model import write_gguf
from modelshare.server.app import Application
from modelshare.wire.link import DesiredDeployment
from programs import agent
from served import serving, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
PADDING = 24 << 20


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


class Counting(Rate):
    """Counts what leaves the owner's machine, by whichever way."""

    sent = 0

    async def take(self, count: int) -> None:
        self.sent += count


async def deploy(owner: Tenant, deployer: Tenant, model: dict[str, Any]) -> None:
    assert (await owner.http.post(f"/v1/models/{model['id']}/share")).status_code == 200
    spec = {"slug": "chat", "model": model["id"], "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201


async def pull(url: str, deployer: Tenant, folder: Path) -> list[DesiredDeployment]:
    """What an agent of the deployer pulls into `folder`/weights, if it may connect to this machine."""
    _, token = await enroll(deployer.http)
    reader = DirectReader(LOOPBACK.allowed)
    async with linked(url, token) as link, aiohttp.ClientSession() as http:
        (wanted,) = await link.wanted(1)
        api = ServerApi(http, url, token)
        puller = Puller(Cache(folder), http, direct=reader)
        try:
            await puller.pull(wanted.files, lambda: api.grant(wanted.deployment_id), lambda _: None)
            async with reader.request() as request:
                assert request is None, "no bytes were wrong"
        finally:
            puller.close()
            await reader.close()
    return [wanted]


async def test_the_owners_machine_serves_who_has_a_grant(
    app: Application, url: str, owner: Tenant, deployer: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held(url, owner, tmp_path, direct=LOOPBACK) as laptop:
        await deploy(owner, deployer, await laptop.published())
        laptop.holder.rate = Counting(None)
        monkeypatch.setattr(laptop.holder, "serve", lambda _: pytest.fail("nothing is relayed"))
        [wanted] = await pull(url, deployer, tmp_path / "box")
        assert laptop.holder.rate.sent == sum(file.size for file in wanted.files)
        for file in wanted.files:
            data = (tmp_path / "box" / "weights" / file.sha256).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file.sha256
    grants = (await owner.http.get("/v1/audit", params={"action": "grant.issue"})).json()["data"]
    assert grants[0]["details"]["project"] == deployer.project.id


async def test_the_owners_hours_and_changes_count_there_too(
    app: Application, url: str, owner: Tenant, deployer: Tenant, tmp_path: Path
) -> None:
    now = [datetime(2026, 11, 27, 23, tzinfo=None)]  # noqa: DTZ001 - local time
    night = {"hours": Hours.parse("22:00-06:00"), "local_time": lambda: now[0]}
    async with held(url, owner, tmp_path, direct=LOOPBACK, **night) as laptop:
        model = await laptop.published()
        await deploy(owner, deployer, model)
        now[0] = now[0].replace(hour=12)
        with pytest.raises(Exception, match="serves files only from 22:00 to 06:00"):
            await pull(url, deployer, tmp_path / "box")
        now[0] = now[0].replace(hour=23)
        weights = laptop.folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
        with pytest.raises(Exception, match=r"model\.safetensors"):
            await pull(url, deployer, tmp_path / "other")


async def test_three_agents_of_one_network_cost_the_owner_one_copy(
    app: Application, url: str, owner: Tenant, deployer: Tenant, tmp_path: Path
) -> None:
    for folder in ("model", "hold"):
        (tmp_path / folder).mkdir()
    weights = tmp_path / "model" / "tiny.gguf"
    write_gguf(weights, loop=False)
    with weights.open("ab") as file:  # engines read as far as the header says
        file.write(bytes(PADDING))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    async with held(url, owner, tmp_path) as laptop:
        await deploy(owner, deployer, await laptop.published())
        laptop.holder.rate = Counting(None)
        made = await deployer.http.post("/v1/join-keys", json={"name": "boxes"})
        boxes = [tmp_path / f"box{n}" for n in range(3)]
        with contextlib.ExitStack() as running:
            for box in boxes:
                running.enter_context(agent(url, box, made.json()["key"], "--share-on-network", "127.0.0.1:0"))

            async def all_have_it() -> bool:
                return all((box / "agent" / "weights" / sha256).exists() for box in boxes)

            await wait_until(all_have_it, 120)
            assert laptop.holder.rate.sent <= 1.2 * weights.stat().st_size
            await asyncio.to_thread(running.close)
