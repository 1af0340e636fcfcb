"""Usage that is old enough is added up by month."""

import asyncio
import datetime as dt
import random
import uuid

import pytest
from sqlalchemy import select

from clock import Clock
from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.endpoints import jobs
from modelshare.server.endpoints.tables import UsageRow, UsageWriterRow
from modelshare.server.settings import Settings
from server.router.test_export import use

pytestmark = pytest.mark.anyio
TODAY = dt.date(2030, 7, 15)
ENDPOINTS, KEY = [uuid.UUID(int=number) for number in (1, 2)], uuid.UUID(int=3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def noon(app: Application, clock: Clock) -> None:
    """It is noon of that day, which is in the future: a platform's clock never goes back."""
    clock.now += dt.datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=dt.UTC).timestamp() - app.platform.now()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"usage_daily_days": 100})


async def rows(app: Application) -> dict[tuple[str, int, str], tuple[int, int, int]]:
    async with app.database.read() as session:
        found = await session.scalars(select(UsageRow))
        return {
            (row.day, row.of_endpoint_id.int if row.of_endpoint_id else 0, row.tier): (
                row.requests,
                row.prompt_tokens,
                row.cost_micros,
            )
            for row in found
        }


async def test_whole_months_that_are_old_enough_are_added_up(app: Application, owner: Tenant) -> None:
    """100 days before is the sixth of April: March is over, April is not."""
    for day in ("2030-02-03", "2030-03-01", "2030-03-31", "2030-04-01", "2030-07-15"):
        for endpoint in ENDPOINTS:
            ids = {"endpoint_id": endpoint, "key_id": KEY}
            await use(app, owner.project.id, day=day, **ids, tier="free", cost_micros=5)
    await use(app, owner.project.id, day="2030-03-31", endpoint_id=ENDPOINTS[0], key_id=KEY, tier="self_hosted")
    for _ in range(2):
        await jobs.roll_up_usage(app.platform)
        assert await rows(app) == {
            **{("2030-02", endpoint.int, "free"): (3, 10, 5) for endpoint in ENDPOINTS},
            **{("2030-03", endpoint.int, "free"): (6, 20, 10) for endpoint in ENDPOINTS},
            ("2030-03", 1, "self_hosted"): (3, 10, 0),
            **{
                (day, endpoint.int, "free"): (3, 10, 5)
                for day in ("2030-04-01", "2030-07-15")
                for endpoint in ENDPOINTS
            },
        }
    await use(app, owner.project.id, day="2030-03-30", endpoint_id=ENDPOINTS[0], key_id=KEY, tier="free")
    await jobs.roll_up_usage(app.platform)
    assert (await rows(app))["2030-03", 1, "free"] == (9, 30, 10)


async def test_sums_are_the_same_before_and_after(app: Application, owner: Tenant, deployer: Tenant) -> None:
    dice = random.Random(7)
    for tenant in (owner, deployer):
        for _ in range(20):
            day = TODAY - dt.timedelta(dice.randrange(60, 300))
            await use(app, tenant.project.id, day=day.isoformat(), endpoint_id=dice.choice(ENDPOINTS))
    asked = {"from": "2029-01-01", "group_by": "endpoint,tier"}
    before = [(await each.http.get("/v1/usage", params=asked)).json() for each in (owner, deployer)]
    await asyncio.gather(*(jobs.roll_up_usage(app.platform) for _ in range(3)))
    assert [(await each.http.get("/v1/usage", params=asked)).json() for each in (owner, deployer)] == before
    days = {day for day, _, _ in await rows(app)}
    assert {len(day) for day in days} == {7, 10}
    assert all(day < "2030-04" for day in days if len(day) == 7)


async def test_a_month_counts_with_its_first_day(app: Application, owner: Tenant) -> None:
    await use(app, owner.project.id, day="2030-03-10")
    await use(app, owner.project.id, day="2030-04-10")
    await jobs.roll_up_usage(app.platform)

    async def days(first: str, last: str) -> list[str]:
        asked = {"from": first, "to": last, "group_by": "day"}
        return [row["day"] for row in (await owner.http.get("/v1/usage", params=asked)).json()["data"]]

    assert await days("2030-03-01", "2030-04-30") == ["2030-04-10", "2030-03"]
    assert await days("2030-03-01", "2030-03-02") == ["2030-03"]
    assert await days("2030-02-01", "2030-02-28") == []
    assert await days("2030-03-02", "2030-04-30") == ["2030-04-10"]


async def test_processes_that_have_ended_are_forgotten(app: Application) -> None:
    now = app.platform.now()
    async with app.database.write() as session:
        for number, age in enumerate((0, 8 * 24 * 3600)):
            session.add(UsageWriterRow(id=uuid.UUID(int=number), batch=1, written_at=now - age))
    await jobs.roll_up_usage(app.platform)
    async with app.database.read() as session:
        assert list(await session.scalars(select(UsageWriterRow.id))) == [uuid.UUID(int=0)]
