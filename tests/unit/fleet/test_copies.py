"""Which agents of a project fetch from which: a tree, so that one copy leaves the owner's storage."""

import uuid
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.fleet.rules import Copy, copies_before, is_within
from modelshare.wire.agents import Phase

FETCHING = {Phase.WAITING, Phase.PULLING, Phase.VERIFYING}
phases = st.lists(st.tuples(st.sampled_from(Phase), st.booleans()), min_size=1, max_size=60)


def copies(states: list[tuple[Phase, bool]]) -> list[Copy]:
    return [Copy(uuid.UUID(int=n + 1), phase, is_whole=is_whole) for n, (phase, is_whole) in enumerate(states)]


@given(phases)
def test_one_agent_at_most_fetches_from_the_owner_and_none_sends_to_many(states: list[tuple[Phase, bool]]) -> None:
    there = copies(states)
    fetching = [copy for copy in there if copy.phase in FETCHING]
    parents = [before[0] if (before := copies_before(copy.deployment_id, there)) else None for copy in fetching]
    assert parents.count(None) <= 1
    children = Counter(parent for parent in parents if parent is not None)
    assert all(count <= 2 for count in children.values())


@given(phases)
def test_nobody_waits_for_a_younger_one_or_for_one_without_the_files(states: list[tuple[Phase, bool]]) -> None:
    there = copies(states)
    for copy in there:
        before = copies_before(copy.deployment_id, there)
        assert len(before) == len(set(before)) <= 4
        for other in before:
            if other.phase in FETCHING:
                assert other.deployment_id < copy.deployment_id
            else:
                assert other.is_whole
                assert other.deployment_id != copy.deployment_id


def test_all_have_a_way_to_the_first() -> None:
    there = copies([(Phase.PULLING, False)] * 20)
    assert copies_before(there[0].deployment_id, there) == []
    for copy in there[1:]:
        assert copies_before(copy.deployment_id, there)[-1] == there[0]
    assert copies_before(there[19].deployment_id, there) == [there[9], there[4], there[1], there[0]]


def test_addresses_are_within_networks_or_are_not_told() -> None:
    networks = ["10.1.2.0/24", "fd00::/8"]
    assert is_within("10.1.2.3:7433", networks)
    assert is_within("[fd00::5]:7433", networks)
    for address in ("10.1.3.3:7433", "[fe80::1]:7433", "box.example:1", ":1", "", "10.1.2.3", "[10.1.2.3]"):
        assert not is_within(address, networks)
    assert not is_within("10.1.2.3:7433", ["nonsense", "10.1.2.0/99"])
