"""What is counted gets written, whatever else cannot be."""

import uuid
from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from modelshare.server.app import Application
from modelshare.server.db import Database
from modelshare.server.endpoints.tables import UsageRow
from modelshare.server.router import usage
from modelshare.server.router.metering import Meter, MeteredUsage
from modelshare.server.router.snapshots import Snapshot
from modelshare.wire.endpoints import EndpointStatus

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
_WRITTEN = select(UsageRow).order_by(UsageRow.endpoint_slug)


@pytest.fixture
def meter(app: Application) -> Meter:
    return Meter(app.database, app.platform.clock)


def endpoint(app: Application, slug: str) -> Snapshot:
    tier = app.platform.tiers.get("self_hosted")
    assert tier is not None
    return Snapshot(
        id=uuid.uuid5(uuid.NAMESPACE_URL, slug.encode("utf-8", "replace").decode()),
        project_id="proj_1",
        slug=slug,
        tier=tier,
        created_at=0,
        model_id=None,
        served_name=None,
        status=EndpointStatus.ACTIVE,
        reason=None,
        progress=None,
        versions=frozenset(),
        targets=(),
        routes=frozenset(),
        ends_at=None,
    )


def with_price(snapshot: Snapshot, price: float | None) -> Snapshot:
    return replace(snapshot, tier=snapshot.tier.model_copy(update={"price_per_million_tokens": price}))


async def written(app: Application) -> dict[str, tuple[int, int]]:
    async with app.database.read() as session:
        return {row.endpoint_slug: (row.requests, row.prompt_tokens) for row in await session.scalars(_WRITTEN)}


KEY = uuid.UUID(int=1)
UNWRITABLE = "half \ud800 a character"


@pytest.mark.parametrize("tokens", [2**31, 2**62, 2**63 - 1, 2**64 - 1, 10**30])
async def test_a_count_that_no_column_takes_harms_nobody(app: Application, meter: Meter, tokens: int) -> None:
    for _ in range(3):
        meter.add(endpoint(app, "huge"), KEY, MeteredUsage(tokens, tokens), failed=False)
        meter.add(endpoint(app, "other"), KEY, MeteredUsage(5, 5), failed=False)
        await meter.flush()
    found = await written(app)
    assert found["other"] == (3, 15)
    assert found["huge"][0] == 3
    assert 0 < found["huge"][1] < 2**50


async def test_a_row_that_can_never_be_written_is_dropped_by_name_and_the_others_are_written(
    app: Application, meter: Meter
) -> None:
    for slug in ("a", UNWRITABLE, "z"):
        meter.add(endpoint(app, slug), KEY, MeteredUsage(1, 1), failed=False)
    with capture_logs() as logs:
        await meter.flush()
    assert await written(app) == {"a": (1, 1), "z": (1, 1)}
    (told,) = [line for line in logs if "dropped" in line["event"]]
    assert (told["endpoint_slug"], told["requests"]) == (UNWRITABLE, 1)
    await meter.flush()
    assert await written(app) == {"a": (1, 1), "z": (1, 1)}


async def test_a_damaged_row_mends(app: Application, meter: Meter) -> None:
    meter.add(endpoint(app, "a"), KEY, MeteredUsage(1, 1), failed=False)
    await meter.flush()
    async with app.database.write() as session:
        await session.execute(text("UPDATE usage SET prompt_tokens = 9223372036854775807"))
    meter.add(endpoint(app, "a"), KEY, MeteredUsage(7, 1), failed=False)
    await meter.flush()
    assert await written(app) == {"a": (2, 2**48 + 7)}


@pytest.mark.parametrize(
    ("price", "micros", "rest"),
    [(None, 0, 0), (0.0, 0, 0), (2.0, 40, 0), (0.15, 3, 0), (0.0375, 0, 750_000), (1e9, 20_000_000_000, 0)],
)
async def test_the_cost_is_the_tiers_price_to_the_last_digit(
    app: Application, meter: Meter, price: float | None, micros: int, rest: int
) -> None:
    priced = with_price(endpoint(app, "a"), price)
    for _ in range(2):
        meter.add(priced, KEY, MeteredUsage(3, 7), failed=False)
    await meter.flush()
    async with app.database.read() as session:
        (row,) = await session.scalars(_WRITTEN)
    assert (row.tier, row.cost_micros, row.cost_rest) == ("self_hosted", micros, rest)


async def test_many_flushes_lose_nothing_and_a_new_price_changes_nothing_old(app: Application, meter: Meter) -> None:
    cheap = with_price(endpoint(app, "a"), 0.000001)
    for _ in range(7):
        meter.add(cheap, KEY, MeteredUsage(1, 0), failed=False)
        await meter.flush()
    again = Meter(app.database, app.platform.clock)  # a process with another tiers file
    again.add(with_price(endpoint(app, "a"), 1_000_000.0), KEY, MeteredUsage(1, 1), failed=False)
    await again.flush()
    async with app.database.read() as session:
        (row,) = await session.scalars(_WRITTEN)
    assert (row.cost_micros, row.cost_rest) == (2_000_000, 7)
    assert usage.cost_of(row.cost_micros, row.cost_rest) == Decimal("2.000000000007")


async def test_tiers_and_versions_have_rows_of_their_own(app: Application, meter: Meter) -> None:
    free = app.platform.tiers.get("free")
    assert free is not None
    for each in (endpoint(app, "a"), replace(endpoint(app, "a"), tier=free)):
        for version in ("1.0.0", "1.1.0"):
            meter.add(each, KEY, MeteredUsage(1, 1, version=version), failed=False)
    await meter.flush()
    async with app.database.read() as session:
        found = {(row.tier, row.version) for row in await session.scalars(_WRITTEN)}
    assert found == {(tier, version) for tier in ("self_hosted", "free") for version in ("1.0.0", "1.1.0")}


async def test_while_the_database_is_away_everything_is_kept_and_the_stop_ends(app: Application, meter: Meter) -> None:
    away = Meter(Database("postgresql+asyncpg://nobody@127.0.0.1:9/none"), app.platform.clock)
    await away.start()
    away.add(endpoint(app, "a"), KEY, MeteredUsage(1, 1), failed=False)
    for _ in range(2):
        with pytest.raises(OSError, match="9"):
            await away.flush()
    assert sum(count.requests for count in away._counts.values()) == 1
    with capture_logs() as logs:
        await away.stop()
    assert [(line["log_level"], line["requests"]) for line in logs] == [("error", 1)]
