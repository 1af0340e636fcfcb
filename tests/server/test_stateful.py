"""Random sequences of what changes sharing and endpoints, each step compared with a small model of the rules.

`STATEFUL_EXAMPLES=500 pytest tests/server/test_stateful.py` runs other and more sequences than the usual ones.
"""

import asyncio
import copy
import itertools
import os
import random
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import settings as budget
from hypothesis import strategies as st
from sqlalchemy import select

from conftest import Tenant, client_of, new_tenant
from factories import add_version, make_model
from invariants import contradictions, lost_updates, stale_entries
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application, create_app
from modelshare.server.endpoints.service import EndpointPolicy
from modelshare.server.jobs import JobRow, Lease
from modelshare.server.registry.inspection import Facts
from modelshare.server.registry.inspection.facts import Format
from modelshare.server.registry.processing import finish
from modelshare.server.registry.processing.load_job import ProcessingJob
from modelshare.server.registry.tables import VersionRow
from modelshare.server.settings import Settings
from modelshare.wire.models import ModelStatus
from reference import SELF_HOSTED, Answer, Model, Reference, Status, Wish

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "0"))
STATUSES: tuple[Status, ...] = ("ready", "failed")
LENGTH = 32
"""Steps of an example."""
PROJECTS = ("owner", "other")
MODELS = ("m0", "m1")
SLUGS = ("a", "b")
TIERS = (SELF_HOSTED, "free", "gpu_nvidia_shared")
EXAMPLE = itertools.count()
FACTS = Facts(
    format=Format.GGUF,
    weights=(),
    architecture=None,
    model_type=None,
    family=None,
    parameters=0,
    context_length=None,
    quantization=None,
)
"""Of no consequence: the versions have their manifests already."""


@dataclass
class World:
    """An example's own projects and models, in the platform and in the reference."""

    app: Application
    tenants: dict[str, Tenant]
    operator: httpx.AsyncClient
    public: httpx.AsyncClient
    family: str
    """Of the example's models: finds them in the catalog."""
    ids: dict[str, uuid.UUID]
    versions: dict[str, uuid.UUID]
    reference: Reference

    def endpoints(self, project: str, *, is_platform: bool) -> tuple[httpx.AsyncClient, str]:
        """Whom to ask, and where, for the project's endpoints."""
        tenant = self.tenants[project]
        return (self.operator, f"/{tenant.project.id}/v1/endpoints") if is_platform else (tenant.http, "/v1/endpoints")

    def body(self, spec: Wish, slug: str) -> dict[str, str]:
        return {"slug": slug, "model": str(self.ids[spec.model]), "tier": spec.tier}


class Step:
    """Something that happens: to the platform, and to the reference."""

    async def act(self, world: World) -> httpx.Response | None:
        raise NotImplementedError

    def expect(self, reference: Reference) -> Answer | None:
        raise NotImplementedError


@dataclass(frozen=True)
class ShareStep(Step):
    action: str
    project: str
    model: str

    to: str | None = None
    """Of a share: to whom; None says nothing."""

    async def act(self, world: World) -> httpx.Response:
        path = f"/v1/models/{world.ids[self.model]}/{self.action}"
        body: dict[str, Any] = {}
        if self.to is not None:
            named = {"projects": [world.tenants[self.to].project.slug]} if self.to != "public" else self.to
            body = {"audience": named}
        return await world.tenants[self.project].http.post(path, json=body)

    def expect(self, reference: Reference) -> Answer:
        if self.action == "share":
            return reference.share(self.project, self.model, self.to)
        return reference.unshare(self.project, self.model)


@dataclass(frozen=True)
class Release(Step):
    """One more version becomes the latest."""

    project: str
    model: str

    async def act(self, world: World) -> httpx.Response:
        model = world.reference.models.get(self.model)
        version = f"{max(model.versions) + 1 if model else 9}.0.0"
        if model is not None and model.owner == self.project:
            await add_version(world.app, world.ids[self.model], version, family=world.family)
        path = f"/v1/models/{world.ids[self.model]}/versions/{version}/promote"
        return await world.tenants[self.project].http.post(path)

    def expect(self, reference: Reference) -> Answer:
        return reference.release(self.project, self.model)


@dataclass(frozen=True)
class RollBack(Step):
    """To the first version."""

    project: str
    model: str

    async def act(self, world: World) -> httpx.Response:
        path = f"/v1/models/{world.ids[self.model]}/versions/1.0.0/rollback"
        return await world.tenants[self.project].http.post(path)

    def expect(self, reference: Reference) -> Answer:
        return reference.roll_back(self.project, self.model)


@dataclass(frozen=True)
class DeleteModel(Step):
    project: str
    model: str

    async def act(self, world: World) -> httpx.Response:
        return await world.tenants[self.project].http.delete(f"/v1/models/{world.ids[self.model]}")

    def expect(self, reference: Reference) -> Answer:
        return reference.delete_model(self.project, self.model)


@dataclass(frozen=True)
class Feature(Step):
    model: str
    featured: bool

    async def act(self, world: World) -> httpx.Response:
        path = f"/v1/platform/catalog/{world.ids[self.model]}/feature"
        return await world.operator.post(path, json={"featured": self.featured})

    def expect(self, reference: Reference) -> Answer:
        return reference.feature(self.model, featured=self.featured)


@dataclass(frozen=True)
class Create(Step):
    """Asks for an explanation first, which has to say the same."""

    spec: Wish
    slug: str

    async def act(self, world: World) -> httpx.Response:
        http, path = world.endpoints(self.spec.project, is_platform=self.spec.is_platform)
        body = world.body(self.spec, self.slug)
        explained = (await http.post(f"{path}/explain", json=body)).json()
        rules = world.reference.explain(self.spec, self.slug)
        assert [reason["rule"] for reason in explained["reasons"]] == rules
        assert explained["possible"] == (not rules)
        answer = await http.post(path, json=body)
        if rules:
            first = explained["reasons"][0]
            assert answer.json()["error"]["message"] == f"{first['message']} {first['fix']}"
        return answer

    def expect(self, reference: Reference) -> Answer:
        return reference.create(self.spec, self.slug)


@dataclass(frozen=True)
class Change(Step):
    project: str
    slug: str
    is_platform: bool
    tier: str | None
    on: bool | None

    async def act(self, world: World) -> httpx.Response:
        http, path = world.endpoints(self.project, is_platform=self.is_platform)
        body = {"is_active": self.on} if self.tier is None else {"tier": self.tier}
        return await http.patch(f"{path}/{self.slug}", json=body)

    def expect(self, reference: Reference) -> Answer:
        if self.tier is not None:
            return reference.move(self.project, self.slug, self.tier, is_platform=self.is_platform)
        return reference.switch(self.project, self.slug, on=bool(self.on), is_platform=self.is_platform)


@dataclass(frozen=True)
class Delete(Step):
    project: str
    slug: str

    async def act(self, world: World) -> httpx.Response:
        http, path = world.endpoints(self.project, is_platform=False)
        return await http.delete(f"{path}/{self.slug}")

    def expect(self, reference: Reference) -> Answer:
        return reference.delete(self.project, self.slug)


@dataclass(frozen=True)
class Promotion(Step):
    """The platform's setting changes."""

    on: bool

    async def act(self, world: World) -> None:
        parts = world.app.platform.parts
        parts[EndpointPolicy] = replace(parts[EndpointPolicy], promotion=self.on)

    def expect(self, reference: Reference) -> None:
        reference.promotion = self.on


@dataclass(frozen=True)
class Judged(Step):
    """Processing ends, once more, with this outcome."""

    model: str
    status: Status

    async def act(self, world: World) -> None:
        owner, platform = world.tenants["owner"].project.id, world.app.platform
        work = ProcessingJob(owner, world.ids[self.model], world.versions[self.model], ModelStatus.PROCESSING, None)
        async with world.app.database.write() as session:
            job = JobRow(kind="test", subject=str(uuid.uuid4()), run_after=2**40, lease_token=uuid.uuid4())
            session.add(job)
            await session.flush()
        assert job.lease_token is not None
        lease = Lease(job.id, job.lease_token, job.subject, 1)
        if self.status == "ready":
            await finish.ready(platform, lease, work, [], FACTS)
        else:
            await finish.failed(platform, lease, work, "Its bytes were damaged.")

    def expect(self, reference: Reference) -> None:
        reference.judged(self.model, self.status)


WISHES = [Wish(*one) for one in itertools.product(PROJECTS, (False, True), MODELS, TIERS)]
STEPS: dict[str, list[Step]] = {
    "share": [ShareStep("share", *one) for one in itertools.product(PROJECTS, MODELS)],
    "audience": [ShareStep("share", "owner", *one) for one in itertools.product(MODELS, ("public", "other", "third"))],
    "release": [Release(*one) for one in itertools.product(PROJECTS, MODELS)],
    "roll back": [RollBack(*one) for one in itertools.product(PROJECTS, MODELS)],
    "unshare": [ShareStep("unshare", *one) for one in itertools.product(PROJECTS, MODELS)],
    "create": [Create(*one) for one in itertools.product(WISHES, SLUGS)],
    "move": [Change(*one, None) for one in itertools.product(PROJECTS, SLUGS, (False, True), TIERS)],
    "switch": [Change(*one) for one in itertools.product(PROJECTS, SLUGS, (False, True), (None,), (False, True))],
    "delete": [Delete(*one) for one in itertools.product(PROJECTS, SLUGS)],
    "feature": [Feature(*one) for one in itertools.product(MODELS, (False, True))],
    "promotion": [Promotion(on) for on in (False, True)],
    "judged": [Judged(model, status) for model in MODELS for status in STATUSES],
    "delete model": [DeleteModel(*one) for one in itertools.product(PROJECTS, MODELS)],
}
"""All that can happen, by kind."""
WEIGHTS = {
    "share": 5,
    "audience": 3,
    "release": 3,
    "create": 10,
    "move": 8,
    "switch": 8,
    "delete": 4,
    "feature": 2,
    "judged": 2,
}
KINDS = [kind for kind in STEPS for _ in range(WEIGHTS.get(kind, 1))]


def roll(dice: random.Random, reference: Reference) -> Step:
    """Any step of some kind; mostly one that changes something, since most of all there are would be refused."""
    steps = STEPS[dice.choice(KINDS)]
    effective = [step for step in steps if changes(reference, step)]
    return dice.choice(steps if not effective or dice.random() < 0.35 else effective)


def changes(reference: Reference, step: Step) -> bool:
    after = copy.deepcopy(reference)
    step.expect(after)
    return after != reference


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
        await Promotion(on=True).act(world)
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
@pytest.mark.timeout(3600 if EXAMPLES else 180)
def test_the_platform_does_what_the_rules_say(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        app = runner.run(stack.enter_async_context(create_app(settings).running()))
        operator = runner.run(stack.enter_async_context(runner.run(platform_client(app))))

        @budget(
            max_examples=EXAMPLES or 16,
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
