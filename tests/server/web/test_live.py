"""Live parts of pages: a change is looked at by the pages that it may show on, and by no others."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from conftest import Tenant
from factories import add_version, make_model
from link_agent import enroll, linked
from modelshare.server.accounts import sessions
from modelshare.server.app import Application
from modelshare.server.web import live
from modelshare.wire.agents import Phase
from served import serving

pytestmark = pytest.mark.anyio
_SECONDS = 60


class Page:
    """A live part that somebody has open; rendering it asks the database."""

    def __init__(self, app: Application, project_id: str, person_id: uuid.UUID) -> None:
        self._database = app.database
        self._rendered = asyncio.Condition()
        self.renderings = 0
        self.stream = app.platform.live.stream(person_id, project_id, self._part)

    async def until(self, renderings: int) -> None:
        async with asyncio.timeout(_SECONDS), self._rendered:
            await self._rendered.wait_for(lambda: self.renderings >= renderings)

    async def looks_again(self, change: Callable[[], Awaitable[object]]) -> None:
        before = self.renderings
        await change()
        await self.until(before + 1)

    async def _part(self) -> str:
        self.renderings += 1
        async with self._database.read() as session:
            await session.execute(text("SELECT 1"))
        async with self._rendered:
            self._rendered.notify_all()
        return "<p>Here.</p>"


@asynccontextmanager
async def opened(app: Application, project_id: str, person_id: uuid.UUID | None = None) -> AsyncIterator[Page]:
    page = Page(app, project_id, person_id or uuid.uuid4())

    async def watch() -> None:
        async for _ in page.stream.body_iterator:
            pass

    watching = asyncio.create_task(watch())
    try:
        await page.until(1)
        yield page
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@pytest.fixture(autouse=True)
def _looks_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(live, "_REST_SECONDS", 0.0)


async def test_a_change_is_looked_at_by_pages_of_its_own_project_only(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "2.0.0")
    endpoint = {"slug": "tiny", "model": str(model), "tier": "self_hosted"}
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "edit": lambda: owner.http.patch(f"/v1/models/{model}", json={"description": "New"}),
        "promote": lambda: owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote"),
        "share": lambda: owner.http.post(f"/v1/models/{model}/share"),
        "deploy": lambda: owner.http.post("/v1/endpoints", json=endpoint),
        "switch off": lambda: owner.http.patch("/v1/endpoints/tiny", json={"is_active": False}),
        "enrol": lambda: enroll(owner.http, name="another"),
        "key": lambda: owner.http.post("/v1/keys", json={"name": "new"}),
        "unshare": lambda: owner.http.post(f"/v1/models/{model}/unshare"),
    }
    async with opened(app, owner.project.id) as own, opened(app, deployer.project.id) as other:
        for change in changes.values():
            await own.looks_again(change)
        assert other.renderings == 1
        await other.looks_again(lambda: deployer.http.post("/v1/keys", json={"name": "new"}))


async def test_a_model_is_looked_at_by_who_deploys_it_and_an_endpoint_by_the_models_owner(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "2.0.0")
    await owner.http.post(f"/v1/models/{model}/share")
    endpoint = {"slug": "tiny", "model": str(model), "tier": "self_hosted"}
    async with opened(app, owner.project.id) as own, opened(app, deployer.project.id) as other:
        await own.looks_again(lambda: deployer.http.post("/v1/endpoints", json=endpoint))
        await other.until(2)
        await other.looks_again(lambda: owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote"))
        await other.looks_again(lambda: owner.http.post(f"/v1/models/{model}/unshare"))


@pytest.mark.usefixtures("running_app")
async def test_what_a_machine_does_is_looked_at_by_its_project_and_what_it_holds_by_the_weights_owner(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    endpoint = {"slug": "tiny", "model": str(model), "tier": "self_hosted"}
    await deployer.http.post("/v1/endpoints", json=endpoint)
    agent_id, token = await enroll(deployer.http)
    async with (
        serving(app) as url,
        opened(app, owner.project.id) as own,
        opened(app, deployer.project.id) as other,
    ):
        async with linked(url, token) as agent:
            [wanted] = await agent.wanted()
            await own.until(2)
            await other.until(2)
            held = own.renderings
            await other.looks_again(lambda: agent.report(wanted.deployment_id, Phase.PULLING, bytes_done=250))
            await other.looks_again(agent.make_ready)
            assert own.renderings == held
        await own.looks_again(lambda: deployer.http.delete(f"/v1/agents/{agent_id}"))


async def test_who_leaves_a_project_is_looked_for_at_once(app: Application, owner: Tenant) -> None:
    person, other = uuid.uuid4(), uuid.uuid4()
    async with opened(app, owner.project.id, person) as theirs, opened(app, owner.project.id, other) as others:

        async def sign_out_everywhere() -> None:
            async with app.database.write() as session:
                await sessions.close_all(session, person, except_token=None)

        await theirs.looks_again(sign_out_everywhere)
        assert others.renderings == 1


async def test_notifications_that_may_have_been_lost_have_every_page_look(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    async with opened(app, owner.project.id) as one, opened(app, deployer.project.id) as another:
        app.database.drop_everything()
        await one.until(2)
        await another.until(2)
