"""What the fleet makes of an endpoint's state."""

import uuid

import pytest

from modelshare.server.fleet.rules import AgentFacts, EndpointFacts, Fleet, HeldDeployment, Observation, Placement
from modelshare.wire.agents import AgentState, Phase
from modelshare.wire.endpoints import EndpointStatus
from modelshare.wire.tiers import SELF_HOSTED

OLD, NEW = uuid.UUID(int=100), uuid.UUID(int=101)
BOX = AgentFacts(uuid.UUID(int=1), "proj_a", frozenset(), AgentState.ACTIVE, 0)
AWAY = AgentFacts(uuid.UUID(int=2), "proj_a", frozenset(), AgentState.DISCONNECTED, 0)


def observe(
    *holdings: HeldDeployment, agents: tuple[AgentFacts, ...] = (BOX,), serving: uuid.UUID | None = None,
    wanted: uuid.UUID | None = NEW, tier: str = SELF_HOSTED,
) -> Observation:  # fmt: skip
    endpoint = EndpointFacts(uuid.UUID(int=9), "proj_a", tier, uuid.UUID(int=50), wanted, serving)
    return Fleet(agents, holdings, now=0).observe(endpoint)


def holds(
    agent: AgentFacts, version: uuid.UUID, phase: Phase, done: int = 0, reason: str | None = None
) -> HeldDeployment:
    return HeldDeployment(Placement(agent.id, version), phase, done, 100, reason)


def test_ready_is_active_and_remembers_what_serves() -> None:
    seen = observe(holds(BOX, NEW, Phase.READY))
    assert (seen.status, seen.reason, seen.progress, seen.serving) == (EndpointStatus.ACTIVE, None, None, NEW)


def test_the_most_advanced_agent_shows() -> None:
    other = AgentFacts(uuid.UUID(int=3), "proj_a", frozenset(), AgentState.ACTIVE, 0)
    seen = observe(holds(BOX, NEW, Phase.PULLING, 10), holds(other, NEW, Phase.PULLING, 40), agents=(BOX, other))
    assert seen.status is EndpointStatus.PROVISIONING
    assert seen.progress is not None
    assert (seen.progress.phase, seen.progress.bytes_done) == ("pulling", 40)


def test_a_failure_shows_when_nothing_else_is_under_way() -> None:
    other = AgentFacts(uuid.UUID(int=3), "proj_a", frozenset(), AgentState.ACTIVE, 0)
    failed = holds(BOX, NEW, Phase.FAILED, reason="It needs 80 GB of memory.")
    seen = observe(failed)
    assert (seen.status, seen.reason, seen.progress) == (EndpointStatus.FAILED, "It needs 80 GB of memory.", None)
    seen = observe(failed, holds(other, NEW, Phase.WAITING), agents=(BOX, other))
    assert seen.status is EndpointStatus.PROVISIONING


def test_nobody_is_there() -> None:
    seen = observe(agents=())
    assert seen.status is EndpointStatus.PROVISIONING
    assert seen.reason is not None
    assert "modelshare agent" in seen.reason
    seen = observe(agents=(), tier="free")
    assert seen.reason is not None
    assert "`free`" in seen.reason


@pytest.mark.parametrize("tier", [SELF_HOSTED, "free"])
def test_an_agent_that_is_about_to_begin_is_not_told_as_none(tier: str) -> None:
    project = "proj_a" if tier == SELF_HOSTED else None
    agent = AgentFacts(uuid.UUID(int=3), project, frozenset({tier}), AgentState.ACTIVE, 0)
    seen = observe(agents=(agent,), tier=tier)
    assert (seen.status, seen.reason) == (EndpointStatus.PROVISIONING, None)


def test_an_agent_that_is_away_is_not_told_as_none() -> None:
    assert "reconnects" in (observe(agents=(AWAY,)).reason or "")


@pytest.mark.parametrize("agents", [(), (AWAY,)])
def test_what_has_served_and_does_not_is_degraded(agents: tuple[AgentFacts, ...]) -> None:
    seen = observe(holds(AWAY, NEW, Phase.READY), agents=agents, serving=NEW)
    assert (seen.status, seen.serving) == (EndpointStatus.DEGRADED, NEW)
    assert seen.reason is not None


def test_the_version_before_answers_while_the_new_one_comes() -> None:
    seen = observe(holds(BOX, OLD, Phase.READY), holds(BOX, NEW, Phase.LOADING), serving=OLD)
    assert (seen.status, seen.serving) == (EndpointStatus.ACTIVE, OLD)
    assert seen.progress is not None
    seen = observe(holds(BOX, OLD, Phase.READY), holds(BOX, NEW, Phase.FAILED, reason="No room."), serving=OLD)
    assert (seen.status, seen.serving) == (EndpointStatus.ACTIVE, OLD)
    assert seen.reason is not None
    assert "No room." in seen.reason


def test_what_answers_after_its_version_failed_a_check_awaits_no_new_one() -> None:
    seen = observe(holds(BOX, OLD, Phase.READY), wanted=None, serving=OLD)
    assert (seen.status, seen.serving) == (EndpointStatus.ACTIVE, OLD)
    assert seen.reason == "No version that this endpoint can serve is ready now; the previous one keeps serving."


def test_a_model_without_a_ready_version_fails_what_never_served() -> None:
    seen = observe(wanted=None)
    assert seen.status is EndpointStatus.FAILED
    assert seen.reason is not None
