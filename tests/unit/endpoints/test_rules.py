from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.endpoints.rules import Intent, came_to_shared_tier, counts_as_new
from modelshare.wire.tiers import SELF_HOSTED

intents = st.builds(Intent, tier=st.sampled_from([SELF_HOSTED, "free", "gpu_nvidia_shared"]), is_active=st.booleans())


@given(intents)
def test_an_unchanged_endpoint_is_not_new(intent: Intent) -> None:
    assert not counts_as_new(intent, intent)


@given(intents, intents)
def test_a_move_or_a_switch_on_counts_as_new(before: Intent, after: Intent) -> None:
    moved = before.tier != after.tier
    switched_on = after.is_active and not before.is_active
    assert counts_as_new(before, after) == (moved or switched_on)


@given(st.none() | intents, intents)
def test_only_active_endpoints_come_to_a_shared_tier(before: Intent | None, after: Intent) -> None:
    if came_to_shared_tier(before, after):
        assert after.is_active
        assert after.tier != SELF_HOSTED
        assert counts_as_new(before, after)
