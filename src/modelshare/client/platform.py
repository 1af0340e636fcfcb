"""`/v1/platform`: operations for the platform's operator, with a platform key (`msp_...`)."""

from modelshare.client.agents import Agents
from modelshare.client.call import Call, Paged, Resource, Transport, at, get, listed, patch, post, sent
from modelshare.client.join_keys import JoinKeys
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.jobs import GivenUpJob
from modelshare.wire.keys import Project, ProjectCreate, ProjectPatch, ProjectWithKey
from modelshare.wire.models import FeatureRequest
from modelshare.wire.tiers import Tier
from modelshare.wire.usage import Process

BASE = "/v1/platform"


class Platform(Resource[Transport]):
    @listed
    def projects(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Project]]:
        return get(f"{BASE}/projects", Page[Project], limit=limit)

    @sent
    def create_project(self, project: ProjectCreate) -> Call[ProjectWithKey]:
        """The response contains the project's first key, which cannot be read again."""
        return post(f"{BASE}/projects", ProjectWithKey, project)

    @sent
    def update_project(self, project_id: str, changes: ProjectPatch) -> Call[Project]:
        """Sets the storage quota, which applies from the next push; None restores the platform's default."""
        return patch(at(f"{BASE}/projects", project_id), Project, changes)

    @listed
    def tiers(self) -> Call[Paged[Tier]]:
        return get(f"{BASE}/tiers", Page[Tier])

    @listed
    def processes(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Process]]:
        """Running server processes, oldest first."""
        return get(f"{BASE}/processes", Page[Process], limit=limit)

    @listed
    def given_up_jobs(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[GivenUpJob]]:
        """Background jobs that failed permanently, newest first."""
        return get(f"{BASE}/jobs", Page[GivenUpJob], limit=limit)

    @sent
    def retry_job(self, job_id: str) -> Call[GivenUpJob]:
        """Runs the job again now."""
        return post(at(f"{BASE}/jobs", job_id, "retry"), GivenUpJob)

    @sent
    def feature(self, model_id: str, *, featured: bool = True) -> Call[FeatureRequest]:
        """Features a model in the catalog, or stops featuring it."""
        body = FeatureRequest(featured=featured)
        return post(at(f"{BASE}/catalog", model_id, "feature"), FeatureRequest, body, repeatable=True)

    @property
    def join_keys(self) -> JoinKeys[Transport]:
        """Join keys for shared agents: `tiers` names the shared tiers that such an agent serves."""
        return JoinKeys(self._transport, BASE)

    @property
    def agents(self) -> Agents[Transport]:
        """The shared agents."""
        return Agents(self._transport, BASE)
