"""`/v1/agents`: the project's own machines. Also used for the platform's shared agents, under another prefix."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.wire.agents import Agent, AgentPatch, Enroll, Enrolled
from modelshare.wire.base import PAGE_LIMIT_MAX, Page


class Agents(Resource[Transport]):
    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Agent]]:
        return get(f"{self._prefix}/agents", Page[Agent], limit=limit)

    @sent
    def get(self, agent_id: str) -> Call[Agent]:
        return get(at(self._prefix, "agents", agent_id), Agent)

    @sent
    def update(self, agent_id: str, changes: AgentPatch) -> Call[Agent]:
        """Renames, suspends or resumes an agent."""
        return patch(at(self._prefix, "agents", agent_id), Agent, changes)

    @sent
    def remove(self, agent_id: str) -> Call[None]:
        """Revokes its token. Its deployments stop, and it is told to delete their weights."""
        return delete(at(self._prefix, "agents", agent_id))

    @sent
    def enroll(self, request: Enroll) -> Call[Enrolled]:
        """Exchanges a join key for an agent's own token. Needs no API key."""
        return post("/v1/enroll", Enrolled, request)
