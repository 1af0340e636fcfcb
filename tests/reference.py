"""A reference model of the sharing rules, to compare the platform with.

Written from the rules' text alone, and deliberately not from the platform's implementation. To add a reason why a model
cannot be selected, extend `OBSTACLES`; to add a way to see one, extend `Reference.sees`.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SELF_HOSTED = "self_hosted"
NOT_SHARED = "Model not found or not shared"
Status = Literal["ready", "failed"]


class Answer(NamedTuple):
    """The expected response; None where the contract leaves the value open."""

    status: int
    code: str | None = None
    message: str | None = None


@dataclass
class Share:
    role: Literal["deployable", "shared"] = "deployable"
    featured: bool = False
    shown_to: str | None = None
    """The only project that sees it; None means all."""


@dataclass
class Model:
    owner: str
    share: Share | None = None
    versions: dict[int, Status] = field(default_factory=lambda: {1: "ready"})
    """By major version; minor and patch are zero. Only the first version is ever processed again."""
    latest: int | None = 1
    last_seen: dict[str, int | None] = field(default_factory=dict)
    """The latest version at the time a project lost access, by project."""

    @property
    def status(self) -> Status:
        return "failed" if self.latest is None else "ready"

    def sees(self, project: str) -> bool:
        return project == self.owner or (self.share is not None and self.share.shown_to in {None, project})

    def shows(self, share: Share | None, projects: Iterable[str]) -> None:
        """Changes the share, and records the latest version for projects that lose access."""
        saw = [project for project in projects if self.sees(project)]
        self.share = share
        self.last_seen |= {project: self.latest for project in saw if not self.sees(project)}

    def served(self, project: str) -> str | None:
        """The version served by an endpoint of the project that follows `latest`."""
        number = self.latest if self.sees(project) else self.last_seen.get(project)
        return f"{number}.0.0" if number is not None and self.versions[number] == "ready" else None


@dataclass
class Endpoint:
    model: str | None
    """None after the model was deleted."""
    tier: str
    is_active: bool = True


class Wish(NamedTuple):
    """An endpoint that someone wants to create."""

    project: str
    is_platform: bool
    """Whether the platform's operator acts in the project."""
    model: str
    tier: str


@dataclass
class Reference:
    """The complete state that the rules refer to."""

    models: dict[str, Model] = field(default_factory=dict)
    endpoints: dict[tuple[str, str], Endpoint] = field(default_factory=dict)
    """By project and slug."""
    promotion: bool = True
    projects: tuple[str, ...] = ()

    def share(self, project: str, name: str, to: str | None = None) -> Answer:
        """`to`: `public`, a project, or None, which leaves the audience of a shared model unchanged."""
        model = self._own(project, name)
        if model is None or model.status != "ready":
            return Answer(400)
        if model.share is None or to is not None:
            role = model.share.role if model.share else "deployable"
            shown_to = None if to in {None, "public"} else to
            featured = model.share is not None and model.share.featured and shown_to is None
            model.shows(Share(role, featured, shown_to), self.projects)
        return Answer(200)

    def release(self, project: str, name: str) -> Answer:
        """Adds a version and promotes it."""
        model = self._own(project, name)
        if model is None:
            return Answer(404)
        model.latest = max(model.versions) + 1
        model.versions[model.latest] = "ready"
        return Answer(200)

    def roll_back(self, project: str, name: str) -> Answer:
        """Rolls back to the first version."""
        model = self._own(project, name)
        if model is None or model.versions[1] != "ready":
            return Answer(404)
        if model.latest == 1:
            return Answer(409)
        model.latest = 1
        return Answer(200)

    def judged(self, name: str, status: Status) -> None:
        """Sets the outcome of processing the first version again."""
        model = self.models.get(name)
        if model is None:
            return
        model.versions[1] = status
        ready = [number for number, each in model.versions.items() if each == "ready"]
        if model.latest is None or (model.latest == 1 and status == "failed"):
            model.latest = max(ready, default=None)

    def unshare(self, project: str, name: str) -> Answer:
        model = self._own(project, name)
        if model is None or model.share is None:
            return Answer(404, None, NOT_SHARED)
        model.shows(None, self.projects)
        return Answer(200)

    def feature(self, name: str, *, featured: bool) -> Answer:
        model = self.models.get(name)
        if model is None or model.share is None:
            return Answer(404, None, NOT_SHARED)
        if featured and model.share.shown_to is not None:
            return Answer(409)
        model.share.featured = featured
        return Answer(200)

    def delete_model(self, project: str, name: str) -> Answer:
        if self._own(project, name) is None:
            return Answer(404, "model_not_found")
        if any(user != project for user, endpoint in self._active(name)):
            return Answer(409, "model_in_use")
        del self.models[name]
        for endpoint in self.endpoints.values():
            if endpoint.model == name:
                endpoint.model = None
        return Answer(204)

    def create(self, spec: Wish, slug: str) -> Answer:
        rules = self.explain(spec, slug)
        if rules:
            return _REFUSALS[rules[0]]
        endpoint = self.endpoints[spec.project, slug] = Endpoint(spec.model, spec.tier)
        self._changed(endpoint, came=True)
        return Answer(201)

    def move(self, project: str, slug: str, tier: str, *, is_platform: bool) -> Answer:
        return self._change(project, slug, tier, None, is_platform=is_platform)

    def switch(self, project: str, slug: str, *, on: bool, is_platform: bool) -> Answer:
        return self._change(project, slug, None, on, is_platform=is_platform)

    def delete(self, project: str, slug: str) -> Answer:
        endpoint = self.endpoints.pop((project, slug), None)
        if endpoint is None:
            return Answer(404, "endpoint_not_found")
        self._changed(endpoint, came=False)
        return Answer(204)

    def explain(self, spec: Wish, slug: str) -> list[str]:
        """Names of the rules that prevent a new endpoint; the first one determines the error."""
        taken = ["slug"] if (spec.project, slug) in self.endpoints else []
        return self._obstacles(spec) + taken

    def sees(self, spec: Wish) -> bool:
        model = self.models.get(spec.model)
        return model is not None and model.sees(spec.project)

    def counts(self, name: str) -> dict[str, int]:
        """Active endpoints by tier."""
        return dict(Counter(endpoint.tier for _, endpoint in self._active(name)))

    def listed(self) -> dict[str, Share]:
        """The public catalog. A failed model has no version to show, but keeps its share."""
        return {
            name: model.share
            for name, model in self.models.items()
            if model.share and model.share.shown_to is None and model.status == "ready"
        }

    def _change(self, project: str, slug: str, tier: str | None, on: bool | None, *, is_platform: bool) -> Answer:
        endpoint = self.endpoints.get((project, slug))
        if endpoint is None:
            return Answer(404, "endpoint_not_found")
        moves = tier is not None and tier != endpoint.tier
        wakes = on is True and not endpoint.is_active
        if moves or wakes:  # treated like a new endpoint
            spec = Wish(project, is_platform, endpoint.model or "", tier or endpoint.tier)
            if rules := self._obstacles(spec):
                return _REFUSALS[rules[0]]
        endpoint.tier = tier or endpoint.tier
        endpoint.is_active = endpoint.is_active if on is None else on
        self._changed(endpoint, came=moves or wakes)
        return Answer(200)

    def _obstacles(self, spec: Wish) -> list[str]:
        if not self.sees(spec):
            return ["visibility"]
        return [rule for rule, stands in OBSTACLES.items() if stands(self.models[spec.model], spec)]

    def _changed(self, endpoint: Endpoint, *, came: bool) -> None:
        """Promotes or demotes the model."""
        share = self.models[endpoint.model].share if endpoint.model else None
        if share is None or endpoint.model is None:
            return
        if not any(used.tier != SELF_HOSTED for _, used in self._active(endpoint.model)):
            share.role = "deployable"
        elif came and endpoint.is_active and endpoint.tier != SELF_HOSTED and self.promotion:
            share.role = "shared"

    def _own(self, project: str, name: str) -> Model | None:
        model = self.models.get(name)
        return model if model is not None and model.owner == project else None

    def _active(self, name: str) -> list[tuple[str, Endpoint]]:
        """Active endpoints of the model, each with its project."""
        return [(key[0], used) for key, used in self.endpoints.items() if used.model == name and used.is_active]


def _is_bound_by_role(model: Model, spec: Wish) -> bool:
    free = spec.is_platform or spec.project == model.owner or spec.tier == SELF_HOSTED
    return not free and model.share is not None and model.share.role == "deployable"


def _is_not_ready(model: Model, _: Wish) -> bool:
    return model.status != "ready"


OBSTACLES: dict[str, Callable[[Model, Wish], bool]] = {"role": _is_bound_by_role, "status": _is_not_ready}
"""Rules that may prevent an endpoint although the model is visible, in the order in which they are reported."""
_REFUSALS = {
    "visibility": Answer(404, "model_not_found"),
    "role": Answer(403, "tier_not_allowed"),
    "status": Answer(409),
    "slug": Answer(409, "slug_taken"),
}
