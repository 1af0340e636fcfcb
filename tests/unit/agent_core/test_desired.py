from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.desired import plan
from modelshare.wire.link import DesiredDeployment

names = st.sampled_from([f"dep_{n}" for n in range(6)])


def wanted(
    deployment_id: str, digest: str = "sha256:a", served: str = "acme/chat", concurrent: int = 1
) -> DesiredDeployment:
    return DesiredDeployment(deployment_id, digest, served, "1.0.0", "gguf", None, "chat", None, None, [], concurrent)


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, DesiredDeployment]:
    return {
        name: wanted(
            name,
            draw(st.sampled_from(["sha256:a", "sha256:b"])),
            draw(st.sampled_from(["x/a", "x/b"])),
            draw(st.integers(1, 2)),
        )
        for name in draw(st.sets(names))
    }


@given(wishes(), st.sets(names), wishes())
def test_a_plan_leads_to_exactly_what_is_wanted(
    running: dict[str, DesiredDeployment], left_over: set[str], spec: dict[str, DesiredDeployment]
) -> None:
    todo = plan(running, left_over, spec.values())
    after = dict(running)
    for name in todo.release:
        after.pop(name, None)
    for one in (*todo.start, *todo.restart, *todo.update):
        after[one.deployment_id] = one
    assert after == spec
    assert set(todo.release) == (set(running) | left_over) - set(spec)


@given(wishes(), st.sets(names), wishes())
def test_no_deployment_is_in_two_parts_of_a_plan(
    running: dict[str, DesiredDeployment], left_over: set[str], spec: dict[str, DesiredDeployment]
) -> None:
    todo = plan(running, left_over, spec.values())
    parts = [*(one.deployment_id for one in (*todo.start, *todo.restart, *todo.update)), *todo.release]
    assert len(parts) == len(set(parts))


@given(wishes())
def test_what_is_as_wanted_stays_untouched(spec: dict[str, DesiredDeployment]) -> None:
    assert plan(spec, spec, spec.values()) == plan({}, (), ())


def test_a_new_name_keeps_the_engine_and_new_weights_do_not() -> None:
    running = {"dep_1": wanted("dep_1")}
    assert plan(running, (), [renamed := wanted("dep_1", served="acme/other")]).update == (renamed,)
    assert plan(running, (), [other := wanted("dep_1", digest="sha256:b")]).restart == (other,)
