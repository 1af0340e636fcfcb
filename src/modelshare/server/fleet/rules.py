"""Which agent should hold which version, and the status of endpoints that follows. Pure.

`eligible` decides by project or tier alone whether an agent may serve an endpoint; `place` chooses among eligible
agents; `observe` derives the endpoint's status. The router and grants use `eligible` too, so that they agree.

"Version" here means what an engine serves. If an endpoint chose another model of the version than the default one,
that has an ID of its own (`Content.id`).
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from modelshare.wire.agents import AgentState, Phase
from modelshare.wire.endpoints import EndpointProgress, EndpointStatus
from modelshare.wire.tiers import SELF_HOSTED

GRACE_SECONDS: Final = 60
"""How long a shared tier waits for a disconnected agent before another one takes over its deployments."""
_PLACEABLE: Final = frozenset({AgentState.ACTIVE, AgentState.DISCONNECTED})
_PHASES: Final = tuple(Phase)
_FETCHING: Final = frozenset({Phase.WAITING, Phase.PULLING, Phase.VERIFYING})
_CHILDREN: Final = 2
"""How many agents fetch from one."""
_NEAREST: Final = 3
"""Ancestors that an agent is told of, besides the first of all."""


@dataclass(frozen=True, slots=True)
class AgentFacts:
    id: uuid.UUID
    project_id: str | None
    """None for a shared agent."""
    tiers: frozenset[str]
    """The shared tiers it serves; empty for a private agent."""
    state: AgentState
    last_seen_at: int | None
    is_holder: bool = False
    """It serves files and runs no models."""

    def is_available(self, now: int) -> bool:
        """Connected, or disconnected so recently that it is expected back."""
        return self.state is AgentState.ACTIVE or (
            self.state is AgentState.DISCONNECTED and now - (self.last_seen_at or 0) < GRACE_SECONDS
        )


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """An active endpoint."""

    id: uuid.UUID
    project_id: str
    tier: str
    model_id: uuid.UUID
    wanted: uuid.UUID | None
    """The version that it should serve; None if no such version is ready."""
    serving: uuid.UUID | None
    """The version that it served last; None if it never did."""
    max_concurrent: int = 1
    """Concurrent requests that its tier allows."""
    keeps_version: bool = False
    """Whether `wanted` and `serving` are models of one version."""


class Content(NamedTuple):
    """One of a version's models; `file` is empty for the default one."""

    version_id: uuid.UUID
    file: str = ""

    @property
    def id(self) -> uuid.UUID:
        return uuid.uuid5(self.version_id, self.file) if self.file else self.version_id


class Placement(NamedTuple):
    """A version on an agent, which identifies a deployment."""

    agent_id: uuid.UUID
    version_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class HeldDeployment:
    """An existing deployment as its agent last reported it."""

    placement: Placement
    phase: Phase
    bytes_done: int = 0
    bytes_total: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    status: EndpointStatus
    reason: str | None
    progress: EndpointProgress | None
    serving: uuid.UUID | None
    """The version that is served now, or was served last."""


class Fleet:
    """All agents and their deployments at one moment."""

    def __init__(self, agents: Iterable[AgentFacts], holdings: Iterable[HeldDeployment], *, now: int) -> None:
        self._agents = {agent.id: agent for agent in agents if agent.state in _PLACEABLE}
        self._holdings = {holding.placement: holding for holding in holdings}
        self._now = now
        self._pools: dict[tuple[str | None, str], list[AgentFacts]] = {}

    def place(self, endpoints: Iterable[EndpointFacts]) -> dict[Placement, int]:
        """The complete desired state: every placement, with the concurrent requests that its endpoints may send.

        On `self_hosted` every agent of the project holds the version. On a shared tier one agent does, chosen by
        rendezvous hashing, so that an agent that comes or goes moves only its own share. Agents that rank before it but
        cannot serve now keep their deployments: when one comes back, its weights are still there.

        Until the wanted version answers from one of its placements, existing deployments of it and of the previous
        version stay: nothing is removed before its successor answers, not even a failed engine of the previous version,
        which may recover.
        """
        placed: Counter[Placement] = Counter()
        for endpoint in endpoints:
            held: set[Placement] = set()
            if endpoint.wanted is not None:
                held |= {
                    Placement(agent_id, endpoint.wanted)
                    for agent_id in self._preferred_agents(endpoint, endpoint.wanted)
                }
            if not any(self._answers(placement) for placement in held):
                held |= set(self._fallbacks(endpoint))
            placed.update(dict.fromkeys(held, endpoint.max_concurrent))
        return dict(placed)

    def observe(self, endpoint: EndpointFacts) -> Observation:
        if self._is_ready(endpoint, endpoint.wanted):
            return Observation(EndpointStatus.ACTIVE, None, None, endpoint.wanted)
        best = self._most_advanced(endpoint)
        failure = best.reason or "The model could not be started." if best and best.phase is Phase.FAILED else None
        progress = (
            EndpointProgress(phase=best.phase, bytes_done=best.bytes_done, bytes_total=best.bytes_total)
            if best and not failure
            else None
        )
        if self._is_ready(endpoint, endpoint.serving):
            new = "file" if endpoint.keeps_version else "version"
            if endpoint.wanted is None:
                reason = "No version that this endpoint can serve is ready now; the previous one keeps serving."
            elif failure:
                reason = f"The new {new} could not be started; the previous one keeps serving: {failure}"
            else:
                reason = f"The new {new} is not ready yet; the previous one keeps serving."
            return Observation(EndpointStatus.ACTIVE, reason, progress, endpoint.serving)
        if endpoint.serving is not None:
            status = EndpointStatus.DEGRADED
        else:
            status = EndpointStatus.FAILED if failure or endpoint.wanted is None else EndpointStatus.PROVISIONING
        return Observation(
            status, failure or (best.reason if best else self._no_agent_reason(endpoint)), progress, endpoint.serving
        )

    def _pool(self, endpoint: EndpointFacts) -> list[AgentFacts]:
        """Eligible agents, cached: the same for all endpoints of a tier, or of a project on `self_hosted`."""
        key = (endpoint.project_id if endpoint.tier == SELF_HOSTED else None, endpoint.tier)
        if key not in self._pools:
            self._pools[key] = [
                agent for agent in self._agents.values() if eligible(endpoint.tier, endpoint.project_id, agent)
            ]
        return self._pools[key]

    def _preferred_agents(self, endpoint: EndpointFacts, version_id: uuid.UUID) -> Iterator[uuid.UUID]:
        pool = self._pool(endpoint)
        if endpoint.tier == SELF_HOSTED:
            yield from (agent.id for agent in pool)
            return
        for agent in sorted(pool, key=lambda agent: _rendezvous(agent.id, endpoint.model_id), reverse=True):
            yield agent.id
            holding = self._holdings.get(Placement(agent.id, version_id))
            if agent.is_available(self._now) and not (holding and holding.phase is Phase.FAILED):
                return

    def _fallbacks(self, endpoint: EndpointFacts) -> Iterator[Placement]:
        for agent in self._pool(endpoint):
            for version_id in (endpoint.wanted, endpoint.serving):
                if version_id is not None:
                    placement = Placement(agent.id, version_id)
                    holding = self._holdings.get(placement)
                    is_before = version_id != endpoint.wanted
                    if holding is not None and (is_before or holding.phase is not Phase.FAILED):
                        yield placement

    def _is_ready(self, endpoint: EndpointFacts, version_id: uuid.UUID | None) -> bool:
        """Whether a connected, eligible agent has it ready."""
        return version_id is not None and any(
            self._answers(Placement(agent.id, version_id)) for agent in self._pool(endpoint)
        )

    def _answers(self, placement: Placement) -> bool:
        holding = self._holdings.get(placement)
        ready = holding is not None and holding.phase is Phase.READY
        return ready and self._agents[placement.agent_id].state is AgentState.ACTIVE

    def _most_advanced(self, endpoint: EndpointFacts) -> HeldDeployment | None:
        """The most advanced deployment of the wanted version on connected agents; a failed one comes last."""
        if endpoint.wanted is None:
            return None
        found = [
            holding
            for agent in self._pool(endpoint)
            if agent.state is AgentState.ACTIVE
            and (holding := self._holdings.get(Placement(agent.id, endpoint.wanted))) is not None
        ]
        return max(found, key=_advance, default=None)

    def _no_agent_reason(self, endpoint: EndpointFacts) -> str | None:
        """Why no agent works on it, and what would help; None if one is about to."""
        if endpoint.wanted is None:
            return (
                "The model has no ready version that this endpoint can serve. Choose another version, or ask its owner."
            )
        if any(agent.state is AgentState.ACTIVE for agent in self._pool(endpoint)):
            return None
        if endpoint.tier != SELF_HOSTED:
            return f"No agent of the tier `{endpoint.tier}` is connected. Ask the platform's operator to start one."
        if any(agent.state is AgentState.DISCONNECTED for agent in self._pool(endpoint)):
            return (
                "Your project's agent is disconnected. It reconnects while `modelshare agent` runs on its "
                "machine; if it does not, restart it there."
            )
        return (
            "No agent of your project is connected. Create a join key, on the Agents page or with `modelshare "
            "join-keys create`, and run `modelshare agent` with it on your machine."
        )


def eligible(tier: str, project_id: str, agent: AgentFacts) -> bool:
    """Whether the agent may serve endpoints of this project on this tier."""
    if agent.is_holder:
        return False
    if tier == SELF_HOSTED:
        return agent.project_id == project_id
    return agent.project_id is None and tier in agent.tiers


def _rendezvous(agent_id: uuid.UUID, model_id: uuid.UUID) -> bytes:
    """Highest random weight (Thaler and Ravishankar, 1998). By model: a new version goes where the old one is."""
    return hashlib.blake2b(agent_id.bytes + model_id.bytes, digest_size=8).digest()


def _advance(holding: HeldDeployment) -> tuple[int, int]:
    rank = -1 if holding.phase is Phase.FAILED else _PHASES.index(holding.phase)
    return rank, holding.bytes_done


@dataclass(frozen=True, slots=True)
class Copy:
    """A deployment of some content on a connected agent that others may fetch it from."""

    deployment_id: uuid.UUID
    phase: Phase
    is_whole: bool
    """It reported that it has all bytes."""


def copies_before(reader: uuid.UUID, copies: Collection[Copy]) -> list[Copy]:
    """From which copies the deployment `reader` fetches its files, in the order to try them. None: from the owner.

    All copies form a tree: complete ones first, then the others by age. Each fetches from its parent, while that one
    still fetches itself, else from an ancestor. So one alone fetches from the owner, everybody sends to at most
    `_CHILDREN`, and since an incomplete parent is always older than its children, none wait for each other.
    """
    others = [copy for copy in copies if copy.deployment_id != reader]
    complete = [copy for copy in others if copy.is_whole and copy.phase not in _FETCHING]
    fetching = [copy for copy in others if copy.phase in _FETCHING and copy.deployment_id < reader]
    before = sorted(complete, key=_age) + sorted(fetching, key=_age)
    ancestors = []
    position = len(before)
    while position > 0:
        position = (position - 1) // _CHILDREN
        ancestors.append(before[position])
    return ancestors[:_NEAREST] + ancestors[_NEAREST:][-1:]


def _age(copy: Copy) -> uuid.UUID:
    return copy.deployment_id


def is_within(address: str, networks: Sequence[str]) -> bool:
    """Whether the IP address before the port is in one of the networks. False for what is no address."""
    host = address.rpartition(":")[0].strip("[]")
    for network in networks:
        try:
            if ip_address(host) in ip_network(network, strict=False):
                return True
        except ValueError:
            continue
    return False
