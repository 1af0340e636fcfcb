"""Steps for stateful tests of models, sharing and endpoints: each is applied to the platform and to the reference."""

import copy
import itertools
import random
import uuid
from dataclasses import dataclass, replace
from typing import Any

import httpx

from conftest import Tenant
from factories import add_version
from modelshare.server.app import Application
from modelshare.server.jobs import JobRow, Lease
from modelshare.server.registry.inspection import Facts
from modelshare.server.registry.inspection.facts import Format
from modelshare.server.registry.processing import finish
from modelshare.server.registry.processing.load_job import ProcessingJob
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.models import ModelStatus
from reference import SELF_HOSTED, Answer, EndpointSpec, Reference, Status

STATUSES: tuple[Status, ...] = ("ready", "failed")


PROJECTS = ("owner", "other")


MODELS = ("m0", "m1")


SLUGS = ("a", "b")


TIERS = (SELF_HOSTED, "free", "gpu_nvidia_shared")


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
"""Irrelevant, since the versions already have manifests."""


@dataclass
class World:
    """The projects and models of one example, in the platform and in the reference."""

    app: Application
    tenants: dict[str, Tenant]
    operator: httpx.AsyncClient
    public: httpx.AsyncClient
    family: str
    """The family of the example's models, to find them in the catalog."""
    ids: dict[str, uuid.UUID]
    versions: dict[str, uuid.UUID]
    reference: Reference

    def endpoints(self, project: str, *, is_platform: bool) -> tuple[httpx.AsyncClient, str]:
        """The client and path for the project's endpoints."""
        tenant = self.tenants[project]
        return (self.operator, f"/{tenant.project.id}/v1/endpoints") if is_platform else (tenant.http, "/v1/endpoints")

    def body(self, spec: EndpointSpec, slug: str) -> dict[str, str]:
        return {"slug": slug, "model": str(self.ids[spec.model]), "tier": spec.tier}


class Step:
    """An action on the platform, and its effect on the reference."""

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
    """The audience of a share; None omits it."""

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
    """Adds a version and promotes it."""

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
    """Rolls back to the first version."""

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
    """Also checks that `explain` gives the same result."""

    spec: EndpointSpec
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
class SetPromotion(Step):
    """Changes the platform's setting."""

    on: bool

    async def act(self, world: World) -> None:
        platform = world.app.platform
        policy = replace(platform.endpoint_policy, promotion=self.on)
        world.app.platform = replace(platform, endpoint_policy=policy)

    def expect(self, reference: Reference) -> None:
        reference.promotion = self.on


@dataclass(frozen=True)
class Processed(Step):
    """Processes the first version, once more if it was processed already, with this outcome."""

    model: str
    status: Status

    async def act(self, world: World) -> None:
        owner, platform = world.tenants["owner"].project.id, world.app.platform
        work = ProcessingJob(owner, world.ids[self.model], world.versions[self.model], ModelStatus.PROCESSING, None)
        async with world.app.database.write() as session:
            job = JobRow(kind="test", subject=str(uuid.uuid4()), run_after=2**40, lease_token=uuid.uuid4())
            session.add(job)
            version = await session.get_one(VersionRow, world.versions[self.model])
            if version.status == ModelStatus.FAILED:
                version.status = ModelStatus.PROCESSING
            await session.flush()
        assert job.lease_token is not None
        lease = Lease(job.id, job.lease_token, job.subject, 1)
        if self.status == "ready":
            await finish.ready(platform, lease, work, [], FACTS)
        else:
            await finish.failed(platform, lease, work, "Its bytes were damaged.")

    def expect(self, reference: Reference) -> None:
        reference.processed(self.model, self.status)


SPECS = [EndpointSpec(*one) for one in itertools.product(PROJECTS, (False, True), MODELS, TIERS)]


STEPS: dict[str, list[Step]] = {
    "share": [ShareStep("share", *one) for one in itertools.product(PROJECTS, MODELS)],
    "audience": [ShareStep("share", "owner", *one) for one in itertools.product(MODELS, ("public", "other", "third"))],
    "release": [Release(*one) for one in itertools.product(PROJECTS, MODELS)],
    "roll back": [RollBack(*one) for one in itertools.product(PROJECTS, MODELS)],
    "unshare": [ShareStep("unshare", *one) for one in itertools.product(PROJECTS, MODELS)],
    "create": [Create(*one) for one in itertools.product(SPECS, SLUGS)],
    "move": [Change(*one, None) for one in itertools.product(PROJECTS, SLUGS, (False, True), TIERS)],
    "switch": [Change(*one) for one in itertools.product(PROJECTS, SLUGS, (False, True), (None,), (False, True))],
    "delete": [Delete(*one) for one in itertools.product(PROJECTS, SLUGS)],
    "feature": [Feature(*one) for one in itertools.product(MODELS, (False, True))],
    "promotion": [SetPromotion(on) for on in (False, True)],
    "processed": [Processed(model, status) for model in MODELS for status in STATUSES],
    "delete model": [DeleteModel(*one) for one in itertools.product(PROJECTS, MODELS)],
}
"""All steps, by kind."""


WEIGHTS = {
    "share": 5,
    "audience": 3,
    "release": 3,
    "create": 10,
    "move": 8,
    "switch": 8,
    "delete": 4,
    "feature": 2,
    "processed": 2,
}


KINDS = [kind for kind in STEPS for _ in range(WEIGHTS.get(kind, 1))]


def roll(dice: random.Random, reference: Reference) -> Step:
    """A random step of a random kind, usually one that changes something: most steps would be rejected."""
    steps = STEPS[dice.choice(KINDS)]
    effective = [step for step in steps if changes(reference, step)]
    return dice.choice(steps if not effective or dice.random() < 0.35 else effective)


def changes(reference: Reference, step: Step) -> bool:
    after = copy.deepcopy(reference)
    step.expect(after)
    return after != reference
