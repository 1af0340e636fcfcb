"""Whatever runs at once, what 2-rules calls always true stays true, at every moment and on every process."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from sqlalchemy import text

from conftest import Tenant, client_of
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.settings import Settings

pytestmark = pytest.mark.anyio
BROKEN = text("""
    SELECT count(*) FROM models m
    LEFT JOIN shares s ON s.model_id = m.id
    LEFT JOIN (
        SELECT e.model_id, count(*) AS total,
            sum(CASE WHEN e.tier <> 'self_hosted' THEN 1 ELSE 0 END) AS on_shared,
            sum(CASE WHEN e.project_id <> o.project_id THEN 1 ELSE 0 END) AS foreigners
        FROM endpoints e JOIN models o ON o.id = e.model_id WHERE e.is_active GROUP BY e.model_id
    ) e ON e.model_id = m.id
    WHERE m.active_endpoints <> coalesce(e.total, 0)
        OR m.shared_tier_endpoints <> coalesce(e.on_shared, 0)
        OR m.foreign_endpoints <> coalesce(e.foreigners, 0)
        OR s.deployment_count <> coalesce(e.total, 0)
        OR s.shared_tier_endpoints <> coalesce(e.on_shared, 0)
        OR (s.role = 'shared' AND coalesce(e.on_shared, 0) = 0)
""")
"""Models whose counts or role contradict their endpoints: one statement, so one moment."""


@pytest.fixture
async def processes(app: Application, settings: Settings) -> AsyncIterator[list[Application]]:
    """Two of them where the database allows it."""
    async with AsyncExitStack() as stack:
        other = Application(settings.model_copy(update={"data_dir": settings.data_dir / "other"}))
        yield [app] if app.database.is_sqlite else [app, await stack.enter_async_context(other.running())]


async def broken(app: Application) -> int:
    async with app.database.read() as session:
        return int(await session.scalar(BROKEN) or 0)


async def act(http: httpx.AsyncClient, model: uuid.UUID, dice: random.Random, slug: str) -> httpx.Response:
    """One random action on the model or one of the caller's endpoints."""
    tier = dice.choice(["self_hosted", "free", "gpu_nvidia_shared"])
    match dice.choice(["create", "create", "create", "delete", "move", "off", "on", "share", "unshare"]):
        case "create":
            return await http.post("/v1/endpoints", json={"slug": slug, "model": str(model), "tier": tier})
        case "delete":
            return await http.delete(f"/v1/endpoints/{slug}")
        case "move":
            return await http.patch(f"/v1/endpoints/{slug}", json={"tier": tier})
        case "off":
            return await http.patch(f"/v1/endpoints/{slug}", json={"is_active": False})
        case "on":
            return await http.patch(f"/v1/endpoints/{slug}", json={"is_active": True})
        case action:
            return await http.post(f"/v1/models/{model}/{action}")


@pytest.mark.parametrize("seed", [1, 2])
async def test_twenty_at_once(processes: list[Application], owner: Tenant, deployer: Tenant, seed: int) -> None:
    model = await make_model(processes[0], owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    answers: list[httpx.Response] = []

    async def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        tenant = (owner, deployer)[number % 2]
        async with client_of(processes[number % len(processes)], tenant.project.api_key) as http:
            answers.extend([await act(http, model, dice, f"e{dice.randrange(4)}") for _ in range(6)])

    working = asyncio.gather(*(work(number) for number in range(20)))
    while not working.done():
        assert await broken(processes[0]) == 0
    await working
    assert await broken(processes[0]) == 0
    assert [answer.text for answer in answers if answer.status_code >= 500] == []
    assert {answer.status_code for answer in answers} >= {200, 201, 204}, "something was done"


async def test_the_same_slug_at_once_is_made_once(processes: list[Application], owner: Tenant) -> None:
    models = [await make_model(processes[0], owner.project.id, name=f"m{number}") for number in range(2)]

    async def create(number: int) -> int:
        async with client_of(processes[number % len(processes)], owner.project.api_key) as http:
            body = {"slug": "chat", "model": str(models[number % 2]), "tier": "free"}
            return (await http.post("/v1/endpoints", json=body)).status_code

    assert sorted(await asyncio.gather(*(create(number) for number in range(8)))) == [201] + [409] * 7
    assert await broken(processes[0]) == 0


async def test_delete_and_deploy_at_once(processes: list[Application], owner: Tenant, deployer: Tenant) -> None:
    """Either the model is gone, or the endpoint of another project keeps it."""
    for round_ in range(5):
        model = await make_model(processes[0], owner.project.id, name=f"m{round_}")
        await owner.http.post(f"/v1/models/{model}/share")
        async with client_of(processes[-1], deployer.project.api_key) as http:
            body = {"slug": f"e{round_}", "model": str(model), "tier": "self_hosted"}
            made, deleted = await asyncio.gather(
                http.post("/v1/endpoints", json=body), owner.http.delete(f"/v1/models/{model}")
            )
        assert (made.status_code, deleted.status_code) in {(201, 409), (404, 204)}
    assert await broken(processes[0]) == 0
