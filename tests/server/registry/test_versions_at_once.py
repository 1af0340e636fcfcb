"""Promote, roll back, and processing that makes a version the latest, all at once: one is the latest at any moment."""

import asyncio
import random
import uuid
from collections import Counter

import pytest
from sqlalchemy import text

from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from uploading import push, pushed, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
LATEST = text("SELECT count(*) FROM model_versions WHERE is_latest")


async def watch(app: Application, over: asyncio.Event) -> Counter[int]:
    """How many latest versions there were, each time it looked."""
    seen: Counter[int] = Counter()
    while not over.is_set():
        async with app.database.read() as session:
            seen[int(await session.scalar(LATEST) or 0)] += 1
        await asyncio.sleep(0)
    return seen


async def test_whoever_wins_there_is_one_latest_version(app: Application, owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    for version in ("1.1.0", "1.2.0"):
        await add_version(app, uuid.UUID(model), version)
    over = asyncio.Event()
    watching = asyncio.ensure_future(watch(app, over))
    statuses: Counter[int] = Counter()

    async def change(number: int) -> None:
        version = random.Random(number).choice(["1.0.0", "1.1.0", "1.2.0", "2.0.0", "2.0.1", "9.9.9"])
        action = random.Random(-number).choice(["promote", "rollback"])
        answer = await owner.http.post(f"/v1/models/{model}/versions/{version}/{action}")
        statuses[answer.status_code] += 1
        if answer.status_code != 200:
            assert answer.json()["error"]["message"].endswith(".")

    for burst in range(4):
        version = f"2.0.{burst}"
        await asyncio.gather(
            pushed(owner.http, tiny_model(seed=burst + 1), version=version),
            *(change(100 * burst + number) for number in range(32)),
        )
    over.set()
    assert set(await watching) == {1}
    assert statuses.keys() <= {200, 404, 409}
    assert statuses[200] > 0
    listed = (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]
    assert len([one for one in listed if one["is_latest"]]) == 1
    for version in ("1.0.0", "1.1.0"):  # in the bursts all may have come too late
        await owner.http.post(f"/v1/models/{model}/versions/{version}/rollback")
    last = (await owner.http.get("/v1/audit?limit=200")).json()["data"]
    assert {entry["action"] for entry in last} >= {"model.promote", "model.rollback", "model.ready"}


async def test_of_many_who_go_back_to_the_same_version_one_does(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    for version in ("1.1.0", "1.2.0"):
        await add_version(app, model, version)
    await owner.http.post(f"/v1/models/{model}/versions/1.2.0/promote")
    answers = await asyncio.gather(*(owner.http.post(f"/v1/models/{model}/versions/1.1.0/rollback") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 7]
    assert {answer.json()["version"] for answer in answers if answer.status_code == 200} == {"1.1.0"}
    assert all(
        "1.1.0 is already the latest" in answer.json()["error"]["message"]
        for answer in answers
        if answer.status_code == 409
    )


async def test_versions_that_are_pushed_at_once_end_with_one_latest(app: Application, owner: Tenant) -> None:
    first = await pushed(owner.http, tiny_model())
    await asyncio.gather(
        *(push(owner.http, tiny_model(seed=number), version=f"1.{number}.0") for number in range(1, 6))
    )

    async def judged() -> list[str]:
        listed = (await owner.http.get(f"/v1/models/{first['id']}/versions")).json()["data"]
        return (
            [one["version"] for one in listed if one["is_latest"]]
            if all(one["status"] == "ready" for one in listed)
            else []
        )

    async with asyncio.timeout(60):
        while not (found := await judged()):  # noqa: ASYNC110 - the jobs say nothing when they are done
            await asyncio.sleep(0.02)
    assert found == ["1.5.0"], "the highest, in whatever order they became ready"
