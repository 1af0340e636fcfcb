"""Whatever runs at once, what 2-rules calls always true stays true, at every moment and on every process."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest

from conftest import Tenant, client_of
from factories import make_model
from invariants import contradictions
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio


@pytest.fixture
async def processes(app: Application) -> AsyncIterator[list[Application]]:
    """Two of them where the database allows it."""
    async with AsyncExitStack() as stack:
        other = Application(app.settings.model_copy(update={"data_dir": app.settings.data_dir / "other"}))
        yield [app] if app.database.is_sqlite else [app, await stack.enter_async_context(other.running())]


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
        assert await contradictions(processes[0].database) == 0
    await working
    assert await contradictions(processes[0].database) == 0
    assert [answer.text for answer in answers if answer.status_code >= 500] == []
    assert {answer.status_code for answer in answers} >= {200, 201, 204}, "something was done"


async def test_the_same_slug_at_once_is_made_once(processes: list[Application], owner: Tenant) -> None:
    models = [await make_model(processes[0], owner.project.id, name=f"m{number}") for number in range(2)]

    async def create(number: int) -> int:
        async with client_of(processes[number % len(processes)], owner.project.api_key) as http:
            body = {"slug": "chat", "model": str(models[number % 2]), "tier": "free"}
            return (await http.post("/v1/endpoints", json=body)).status_code

    assert sorted(await asyncio.gather(*(create(number) for number in range(8)))) == [201] + [409] * 7
    assert await contradictions(processes[0].database) == 0


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
    assert await contradictions(processes[0].database) == 0
