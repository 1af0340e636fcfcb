"""Which agent holds what: the rules, and what has to be true of them whatever comes and goes."""

import uuid
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from modelshare.server.fleet.rules import (
    GRACE_SECONDS,
    AgentFacts,
    EndpointFacts,
    Fleet,
    HeldDeployment,
    Placement,
    eligible,
)
from modelshare.wire.agents import AgentState, Phase
from modelshare.wire.tiers import SELF_HOSTED

NOW = 1_000_000
PROJECTS = ("proj_a", "proj_b")
TIERS = ("free", "gpu_nvidia_shared")


def uid(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def private(number: int, project_id: str = "proj_a", state: AgentState = AgentState.ACTIVE) -> AgentFacts:
    return AgentFacts(uid(number), project_id, frozenset(), state, NOW)


def shared(number: int, *tiers: str, state: AgentState = AgentState.ACTIVE, seen: int = NOW) -> AgentFacts:
    return AgentFacts(uid(number), None, frozenset(tiers or ("free",)), state, seen)


def endpoint(
    tier: str = "free",
    *,
    wanted: int | None = 100,
    serving: int | None = None,
    project_id: str = "proj_a",
    model: int = 50,
    number: int = 1,
) -> EndpointFacts:
    return EndpointFacts(
        uid(number), project_id, tier, uid(model), uid(wanted) if wanted else None, uid(serving) if serving else None
    )


def held(agent: AgentFacts, version: int, phase: Phase = Phase.READY) -> HeldDeployment:
    return HeldDeployment(Placement(agent.id, uid(version)), phase)


def place(
    endpoints: list[EndpointFacts], agents: list[AgentFacts], holdings: list[HeldDeployment] | None = None
) -> set[tuple[uuid.UUID, uuid.UUID]]:
    return set(Fleet(agents, holdings or [], now=NOW).place(endpoints))


def test_every_agent_of_the_project_holds_a_self_hosted_version() -> None:
    agents = [private(1), private(2, state=AgentState.DISCONNECTED), private(3, "proj_b"), shared(4)]
    assert place([endpoint(SELF_HOSTED)], agents) == {(uid(1), uid(100)), (uid(2), uid(100))}


def test_one_shared_agent_of_the_tier_holds_a_version() -> None:
    agents = [shared(1), shared(2), shared(3, "gpu_nvidia_shared"), private(4)]
    ((agent_id, version_id),) = place([endpoint()], agents)
    assert agent_id in {uid(1), uid(2)}
    assert version_id == uid(100)


def test_endpoints_of_any_project_share_one_deployment() -> None:
    agents = [shared(1), shared(2), shared(3)]
    endpoints = [endpoint(project_id=project, number=number) for number, project in enumerate(PROJECTS)]
    placed = Fleet(agents, [], now=NOW).place([replace(one, max_concurrent=5) for one in endpoints])
    assert list(placed.values()) == [10]


def test_nobody_suspended_removed_or_pending_holds_anything() -> None:
    out = [AgentState.SUSPENDED, AgentState.REMOVED, AgentState.PENDING]
    agents = [agent for state in out for agent in (private(1, state=state), shared(2, state=state))]
    assert place([endpoint(), endpoint(SELF_HOSTED, number=2)], agents) == set()


def test_a_disconnected_shared_agent_keeps_its_part_for_a_while_and_then_as_well() -> None:
    first, second = ranked([shared(1), shared(2)])
    gone = replace(first, state=AgentState.DISCONNECTED, last_seen_at=NOW - GRACE_SECONDS + 1)
    assert place([endpoint()], [gone, second]) == {(first.id, uid(100))}
    gone = replace(gone, last_seen_at=NOW - GRACE_SECONDS)
    assert place([endpoint()], [gone, second]) == {(first.id, uid(100)), (second.id, uid(100))}


def test_where_it_failed_the_next_agent_takes_over_and_nothing_flaps() -> None:
    first, second, third = ranked([shared(1), shared(2), shared(3)])
    failed = [held(first, 100, Phase.FAILED)]
    assert place([endpoint()], [first, second, third], failed) == {(first.id, uid(100)), (second.id, uid(100))}
    failed.append(held(second, 100, Phase.FAILED))
    assert len(place([endpoint()], [first, second, third], failed)) == 3


def test_the_old_version_stays_until_the_new_one_is_ready() -> None:
    agent = private(1)
    moving = endpoint(SELF_HOSTED, wanted=101, serving=100)
    both = {(uid(1), uid(100)), (uid(1), uid(101))}
    assert place([moving], [agent], [held(agent, 100)]) == both
    assert place([moving], [agent], [held(agent, 100), held(agent, 101, Phase.LOADING)]) == both
    assert place([moving], [agent], [held(agent, 100), held(agent, 101)]) == {(uid(1), uid(101))}


def test_the_old_place_stays_until_the_new_one_is_ready() -> None:
    first, second = ranked([shared(1), shared(2)])
    returned = endpoint(serving=100)
    assert place([returned], [first, second], [held(second, 100)]) == {(first.id, uid(100)), (second.id, uid(100))}
    assert place([returned], [first, second], [held(first, 100), held(second, 100)]) == {(first.id, uid(100))}


def test_a_version_that_nobody_served_is_no_stand_in() -> None:
    agent = private(1)
    assert place([endpoint(SELF_HOSTED, wanted=101)], [agent], [held(agent, 100)]) == {(uid(1), uid(101))}


def test_without_a_ready_version_only_what_serves_stays() -> None:
    agent = private(1)
    assert place([endpoint(SELF_HOSTED, wanted=None)], [agent]) == set()
    assert place([endpoint(SELF_HOSTED, wanted=None, serving=100)], [agent], [held(agent, 100)]) == {(uid(1), uid(100))}


states = st.sampled_from(AgentState)
agents_strategy = st.lists(
    st.one_of(
        st.builds(private, st.integers(1, 30), st.sampled_from(PROJECTS), states),
        st.builds(
            lambda number, tiers, state, seen: shared(number, *tiers, state=state, seen=seen),
            st.integers(31, 60),
            st.sets(st.sampled_from(TIERS), min_size=1),
            states,
            st.integers(NOW - 2 * GRACE_SECONDS, NOW),
        ),
    ),
    unique_by=lambda agent: agent.id,
    max_size=12,
)
endpoints_strategy = st.lists(
    st.builds(
        endpoint,
        st.sampled_from((*TIERS, SELF_HOSTED)),
        wanted=st.one_of(st.none(), st.integers(100, 103)),
        serving=st.one_of(st.none(), st.integers(100, 103)),
        project_id=st.sampled_from(PROJECTS),
        model=st.integers(50, 53),
        number=st.integers(1, 9),
    ),
    max_size=6,
)
holdings_strategy = st.lists(
    st.builds(
        lambda agent, version, phase: HeldDeployment(Placement(uid(agent), uid(version)), phase),
        st.integers(1, 60),
        st.integers(100, 103),
        st.sampled_from(Phase),
    ),
    max_size=12,
)


@given(endpoints_strategy, agents_strategy, holdings_strategy)
def test_only_eligible_agents_hold_what_an_endpoint_asks_for(
    endpoints: list[EndpointFacts], agents: list[AgentFacts], holdings: list[HeldDeployment]
) -> None:
    by_id = {agent.id: agent for agent in agents}
    for agent_id, version_id in place(endpoints, agents, holdings):
        agent = by_id[agent_id]
        assert agent.state in {AgentState.ACTIVE, AgentState.DISCONNECTED}
        assert any(
            version_id in {one.wanted, one.serving} and eligible(one.tier, one.project_id, agent) for one in endpoints
        )


@given(endpoints_strategy, agents_strategy, holdings_strategy)
def test_who_can_be_served_is_placed(
    endpoints: list[EndpointFacts], agents: list[AgentFacts], holdings: list[HeldDeployment]
) -> None:
    placed = place(endpoints, agents, holdings)
    for one in endpoints:
        able = [agent for agent in agents if eligible(one.tier, one.project_id, agent) and agent.is_available(NOW)]
        if one.wanted is not None and able:
            assert any((agent.id, one.wanted) in placed for agent in agents)


@given(endpoints_strategy, agents_strategy, holdings_strategy)
def test_placing_what_is_placed_changes_nothing(
    endpoints: list[EndpointFacts], agents: list[AgentFacts], holdings: list[HeldDeployment]
) -> None:
    placed = place(endpoints, agents, holdings)
    kept = [holding for holding in holdings if holding.placement in placed]
    new = [HeldDeployment(Placement(*one), Phase.WAITING) for one in placed - {holding.placement for holding in kept}]
    assert place(endpoints, agents, kept + new) == placed


@given(endpoints_strategy, agents_strategy, holdings_strategy)
def test_what_answers_never_goes_before_something_else_answers(
    endpoints: list[EndpointFacts], agents: list[AgentFacts], holdings: list[HeldDeployment]
) -> None:
    fleet = Fleet(agents, holdings, now=NOW)
    placed = fleet.place(endpoints)
    kept = Fleet(agents, [holding for holding in holdings if holding.placement in placed], now=NOW)
    for one in endpoints:
        assert kept.observe(one).status == fleet.observe(one).status


@given(st.integers(2, 12), st.integers(50, 90), st.data())
def test_an_agent_that_leaves_moves_only_its_own_share(count: int, models: int, data: st.DataObject) -> None:
    agents = [shared(number) for number in range(1, count + 1)]
    gone = data.draw(st.sampled_from(agents))
    endpoints = [endpoint(model=model, wanted=model + 100, number=model) for model in range(50, models)]
    before, after = place(endpoints, agents), place(endpoints, [agent for agent in agents if agent is not gone])
    assert {one for one in before if one[0] != gone.id} <= after


VERSIONS = (100, 101)
events = st.lists(
    st.one_of(
        st.tuples(st.just("wants"), st.sampled_from(VERSIONS)),
        st.tuples(st.sampled_from(["ready", "fails", "loads"]), st.integers(0, 1), st.sampled_from(VERSIONS)),
        st.tuples(st.sampled_from(["leaves", "links"]), st.integers(0, 1)),
    ),
    min_size=3,
    max_size=30,
)


class History:
    """One endpoint and two agents, round after round, as the reconciler goes about it."""

    def __init__(self, tier: str) -> None:
        self.agents = [private(n) if tier == SELF_HOSTED else shared(n) for n in (1, 2)]
        self.endpoint = endpoint(tier)
        self.holdings: dict[Placement, Phase] = {}

    def happens(self, what: str, *details: int) -> None:
        match what:
            case "wants":
                self.endpoint = replace(self.endpoint, wanted=uid(details[0]))
            case "leaves" | "links":
                agent = self.agents[details[0]]
                state = AgentState.ACTIVE if what == "links" else AgentState.DISCONNECTED
                self.agents[details[0]] = replace(agent, state=state)
                for placement in self.of(agent) if what == "links" else []:
                    self.holdings[placement] = Phase.WAITING  # nobody knows what happened while it was away
            case _:
                placement = Placement(self.agents[details[0]].id, uid(details[1]))
                if placement in self.holdings and self.agents[details[0]].state is AgentState.ACTIVE:
                    phases = {"ready": Phase.READY, "fails": Phase.FAILED, "loads": Phase.LOADING}
                    self.holdings[placement] = phases[what]

    def round(self) -> None:
        fleet = Fleet(self.agents, [HeldDeployment(one, phase) for one, phase in self.holdings.items()], now=NOW)
        seen, placed = fleet.observe(self.endpoint), fleet.place([self.endpoint])
        self.endpoint = replace(self.endpoint, serving=seen.serving)
        self.holdings = {one: self.holdings.get(one, Phase.WAITING) for one in placed}

    def of(self, agent: AgentFacts) -> set[Placement]:
        return {one for one in self.holdings if one.agent_id == agent.id}

    def answering(self, version: uuid.UUID | None) -> set[Placement]:
        linked = {agent.id for agent in self.agents if agent.state is AgentState.ACTIVE}
        return {
            one
            for one, phase in self.holdings.items()
            if one.version_id == version and phase is Phase.READY and one.agent_id in linked
        }


@settings(max_examples=500)
@given(st.sampled_from([SELF_HOSTED, "free"]), events)
def test_along_any_history_what_serves_stays_until_its_successor_answers(
    tier: str, happening: list[tuple[str, int]]
) -> None:
    history = History(tier)
    history.round()
    for event in happening:
        history.happens(*event)
        serving = {one for one in history.holdings if one.version_id == history.endpoint.serving}
        before, answers = history.answering(history.endpoint.serving), history.answering(history.endpoint.wanted)
        history.round()
        if not answers:
            assert before <= history.holdings.keys(), "what answers stays"
            if history.endpoint.serving != history.endpoint.wanted:
                assert serving <= history.holdings.keys(), "and what has failed may come back"
        if before or answers:
            assert history.answering(history.endpoint.serving), "there was an answer, and there is one"


def ranked(agents: list[AgentFacts]) -> list[AgentFacts]:
    """In the order in which they take over the model of `endpoint()`."""
    left, found = list(agents), []
    while left:
        ((agent_id, _),) = place([endpoint()], left)
        found.append(next(agent for agent in left if agent.id == agent_id))
        left.remove(found[-1])
    return found
