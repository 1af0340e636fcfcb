"""Random sequences of what changes sharing and endpoints, each step compared with a small model of the rules.

`STATEFUL_EXAMPLES=500 pytest tests/server/test_stateful.py` runs other and more sequences than the usual ones.
"""

import asyncio
import itertools
import os
import random
import uuid
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import settings as budget
from hypothesis import strategies as st
from sqlalchemy import select

from conftest import client_of, new_tenant
from factories import make_model
from invariants import contradictions, lost_updates, stale_entries
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application, create_app
from modelshare.server.registry.tables import VersionRow
from modelshare.server.settings import Settings
from reference import Answer, Model, Reference
from steps import (
    MODELS,
    PROJECTS,
    SetPromotion,
    World,
    roll,
)

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "0"))
USUAL_EXAMPLES = {"sqlite": 16, "postgresql": 4}
"""The rules are the same on both; PostgreSQL is to show that its queries are."""
LENGTH = 32
"""Steps of an example."""
EXAMPLE = itertools.count()


def answered(response: httpx.Response, expected: Answer) -> None:
    assert response.status_code == expected.status, response.text
    if expected.code is not None:
        assert response.json()["error"]["code"] == expected.code
    if expected.message is not None:
        error = response.json()["error"]
        assert (error["message"], error["code"]) == (expected.message, None)


async def compare(world: World) -> None:
    """What the platform shows is what the reference holds."""
    reference, owner = world.reference, world.tenants["owner"]
    names = {str(id_): name for name, id_ in world.ids.items()}
    shown = (await owner.http.get("/v1/models?extended=true")).json()["data"]
    assert {names[one["id"]] for one in shown} == set(reference.models)
    for one in shown:
        await compare_model(world, names[one["id"]], one)
    catalog = (await world.public.get(f"/v1/catalog/models?family={world.family}")).json()["data"]
    listed = {
        name: (share.role, share.featured, sum(reference.counts(name).values()))
        for name, share in reference.listed().items()
    }
    entries = [(names[one["id"]], one["catalog_role"], one["featured"], one["deployment_count"]) for one in catalog]
    assert {name: rest for name, *rest in entries} == {name: list(rest) for name, rest in listed.items()}
    for name, tenant in world.tenants.items():
        endpoints = (await tenant.http.get("/v1/endpoints")).json()["data"]
        assert {
            one["slug"]: (
                *(names[one["model"]] if one["model"] else None, one["tier"], one["is_active"]),
                one["resolved_version"],
            )
            for one in endpoints
        } == {
            slug: (
                *(used.model, used.tier, used.is_active),
                reference.models[used.model].served(name) if used.model else None,
            )
            for (project, slug), used in reference.endpoints.items()
            if project == name
        }


async def compare_model(world: World, name: str, shown: dict[str, Any]) -> None:
    model, counts = world.reference.models[name], world.reference.counts(name)
    footprint = (await world.tenants["owner"].http.get(f"/v1/models/{world.ids[name]}/catalog")).json()
    assert footprint["endpoints_by_tier"] == counts
    share = model.share
    expected = {
        "is_shared": share is not None,
        "catalog_role": share.role if share else None,
        "featured": bool(share and share.featured),
        "deployment_count": sum(counts.values()) if share else 0,
    }
    assert {key: shown[key] for key in expected} == {key: footprint[key] for key in expected} == expected
    assert shown["status"] == ("active" if counts and model.status == "ready" else model.status)


async def play(app: Application, operator: httpx.AsyncClient, rolls: list[int]) -> None:
    number = next(EXAMPLE)
    family = f"family{number}"
    async with AsyncExitStack() as stack:
        tenants = {name: await new_tenant(app, f"{name}{number}") for name in (*PROJECTS, "third")}
        public = await stack.enter_async_context(client_of(app))
        for tenant in tenants.values():
            await stack.enter_async_context(tenant.http)
        ids = {name: await make_model(app, tenants["owner"].project.id, name=name, family=family) for name in MODELS}
        versions = {name: await version_of(app, id_) for name, id_ in ids.items()}
        reference = Reference({name: Model("owner") for name in MODELS}, projects=PROJECTS)
        world = World(app, tenants, operator, public, family, ids, versions, reference)
        await SetPromotion(on=True).act(world)
        for index, rolled in enumerate(rolls):
            if rolled == 0:  # what a failing example is shrunk to: nothing happens
                continue
            step = roll(random.Random(f"{index} {rolled}"), reference)
            note(repr(step))
            response = await step.act(world)
            expected = step.expect(reference)
            if response is not None and expected is not None:
                answered(response, expected)
            await compare(world)
        assert await contradictions(app.database) == 0
        assert await lost_updates(app.database) == []
        assert await stale_entries(app.database) == []


async def version_of(app: Application, model_id: uuid.UUID) -> uuid.UUID:
    """Of a model with one."""
    async with app.database.read() as session:
        return (await session.scalars(select(VersionRow.id).where(VersionRow.model_id == model_id))).one()


@pytest.mark.usefixtures("anyio_backend")
@pytest.mark.timeout(3600 if EXAMPLES else 900)
def test_the_platform_does_what_the_rules_say(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        app = runner.run(stack.enter_async_context(create_app(settings).running()))
        operator = runner.run(stack.enter_async_context(runner.run(platform_client(app))))

        @budget(
            max_examples=EXAMPLES or USUAL_EXAMPLES[app.database.url.get_backend_name()],
            derandomize=not EXAMPLES,
            print_blob=True,
            phases=list(Phase) if EXAMPLES else [Phase.generate],  # shrinking takes minutes
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(st.integers(0, 2**32 - 1), min_size=LENGTH, max_size=LENGTH))
        def run(rolls: list[int]) -> None:
            runner.run(play(app, operator, rolls))

        try:
            run()
        finally:
            runner.run(stack.aclose())


async def platform_client(app: Application) -> httpx.AsyncClient:
    async with app.database.write() as session:
        return client_of(app, await accounts.create_platform_key(session, "operator", now=app.platform.now()))
