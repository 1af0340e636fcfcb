"""The catalog's entries say what the rows say, whatever happens, in whatever order."""

import asyncio
import random
import uuid
from typing import Any

import pytest
from sqlalchemy import select

from conftest import Tenant
from factories import add_version, make_model
from invariants import stale_entries
from modelshare.server.app import Application
from modelshare.server.jobs import JobRow, Lease
from modelshare.server.registry.inspection import Facts
from modelshare.server.registry.inspection.facts import Format
from modelshare.server.registry.processing import finish
from modelshare.server.registry.processing.load_job import ProcessingJob
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.models import ModelStatus

pytestmark = pytest.mark.anyio
FACTS = Facts(
    format=Format.GGUF,
    weights=(),
    architecture="Other",
    model_type=None,
    family="other",
    parameters=9 * 10**9,
    context_length=8192,
    quantization=None,
    tags=("derived",),
    license="mit",
)
TO_BORG = {"audience": {"projects": ["borg"]}}
TO_LINK: dict[str, Any] = {"audience": {"link": {}}}


async def judge(app: Application, model_id: uuid.UUID, version: str, *, well: bool) -> None:
    """Processing of the version ends."""
    async with app.database.write() as session:
        statement = select(VersionRow.id).where(VersionRow.model_id == model_id, VersionRow.version == version)
        version_id = (await session.scalars(statement)).one()
        job = JobRow(kind="test", subject=str(uuid.uuid4()), run_after=2**40, lease_token=uuid.uuid4())
        session.add(job)
        await session.flush()
    assert job.lease_token is not None
    work = ProcessingJob("", model_id, version_id, ModelStatus.PROCESSING, None)
    lease = Lease(job.id, job.lease_token, job.subject, 1)
    if well:
        await finish.ready(app.platform, lease, work, [], FACTS)
    else:
        await finish.failed(app.platform, lease, work, "Its bytes were damaged.")


class World:
    """A model of `acme`, its versions 1.0.0 and 2.0.0, and `borg`, to whom it may be shown."""

    def __init__(self, app: Application, owner: Tenant, other: Tenant, model_id: uuid.UUID) -> None:
        self.app, self.owner, self.other, self.model_id = app, owner, other, model_id
        self.path = f"/v1/models/{model_id}"
        self.token: str | None = None

    async def act(self, what: str) -> None:  # noqa: C901 - one case for each action
        """Whether it is possible does not matter."""
        post = self.owner.http.post
        match what.split():
            case ["share"]:
                await post(f"{self.path}/share")
            case ["share", to]:
                answer = await post(f"{self.path}/share", json=TO_BORG if to == "borg" else TO_LINK)
                self.token = (answer.json().get("link") or {}).get("token", self.token)
            case ["claim"]:
                await self.other.http.post("/v1/catalog/claims", json={"token": self.token or "msl_x"})
            case ["unshare"]:
                await post(f"{self.path}/unshare")
            case ["edit", field, *words]:
                changed: dict[str, Any] = {field: words if field == "tags" else " ".join(words)}
                assert (await self.owner.http.patch(self.path, json=changed)).status_code == 200
            case [("promote" | "rollback") as action, version]:
                await post(f"{self.path}/versions/{version}/{action}")
            case ["judge", version, how]:
                await judge(self.app, self.model_id, version, well=how == "well")
            case ["deploy", tier]:
                spec = {"slug": "x", "model": str(self.model_id), "tier": tier}
                if (await self.owner.http.post("/v1/endpoints", json=spec)).status_code != 201:
                    await self.owner.http.patch("/v1/endpoints/x", json={"tier": tier})
            case ["withdraw"]:
                await self.owner.http.delete("/v1/endpoints/x")


ACTIONS = (
    *("share", "share", "share borg", "share link", "claim", "unshare"),
    *("edit name other", "edit name one", "edit description Élégant words", "edit display_name 日本語"),
    *("edit tags a b a", "edit license mit"),
    *("promote 1.0.0", "promote 2.0.0", "rollback 1.0.0", "judge 1.0.0 well", "judge 1.0.0 badly"),
    *("judge 2.0.0 well", "judge 2.0.0 badly", "deploy free", "deploy self_hosted", "withdraw"),
)


@pytest.fixture
async def world(app: Application, owner: Tenant, deployer: Tenant) -> World:
    model_id = await make_model(app, owner.project.id, name="one")
    await add_version(app, model_id, "2.0.0")
    return World(app, owner, deployer, model_id)


@pytest.mark.parametrize("seed", range(6))
async def test_entries_are_what_the_rows_say(world: World, seed: int) -> None:
    dice = random.Random(seed)
    done = []
    for action in ["share", *dice.choices(ACTIONS, k=40)]:
        await world.act(action)
        done.append(action)
        assert await stale_entries(world.app.database) == [], done


async def test_changes_at_once_leave_no_stale_entry(world: World) -> None:
    dice = random.Random(1)
    for _ in range(4):
        await asyncio.gather(*(world.act(action) for action in dice.choices(ACTIONS, k=12)))
        assert await stale_entries(world.app.database) == []


async def test_a_deleted_model_leaves_nothing(world: World) -> None:
    await world.act("share")
    assert (await world.owner.http.delete(world.path)).status_code == 204
    assert await stale_entries(world.app.database) == []
