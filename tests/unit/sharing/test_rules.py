"""The rules of sharing, as properties over every state there is."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.sharing import rules, tiers
from modelshare.server.sharing.rules import ModelFacts, Relation
from modelshare.wire.models import CatalogRole, ModelStatus
from modelshare.wire.sharing import Audience
from modelshare.wire.tiers import SELF_HOSTED, Tier

BOOK = tiers.load(None)
footprints = st.just((None, None)) | st.tuples(st.sampled_from(CatalogRole), st.sampled_from(Audience))
"""Role and audience: both there, or neither."""
facts = st.builds(
    lambda status, footprint, size, recalled: ModelFacts(status, footprint[0], size, footprint[1], recalled),
    st.sampled_from(ModelStatus),
    footprints,
    st.integers(0, 10**12),
    st.booleans(),
)
relations = st.sampled_from(Relation)
any_tier = st.sampled_from(list(BOOK))


@given(facts)
def test_only_ready_and_active_can_be_shared(model: ModelFacts) -> None:
    allowed = rules.share_refusal(model) is None
    assert allowed == (model.status in {ModelStatus.READY, ModelStatus.ACTIVE} and not model.is_recalled)


def test_what_is_not_the_callers_cannot_be_shared() -> None:
    assert rules.share_refusal(None) is not None


def test_a_fresh_share_starts_at_deployable_and_sharing_again_keeps_the_role() -> None:
    assert rules.role_on_share(None) is CatalogRole.DEPLOYABLE
    for role in CatalogRole:
        assert rules.role_on_share(role) is role


@given(facts, any_tier)
def test_a_deployer_selects_only_from_the_catalog(model: ModelFacts, tier: Tier) -> None:
    reasons = rules.selection_reasons(Relation.DEPLOYER, model, tier)
    if model.audience is not Audience.PUBLIC:
        assert [reason.rule for reason in reasons] == ["visibility"]
    if not reasons:
        assert model.in_catalog
        assert tier.slug == SELF_HOSTED or model.role is CatalogRole.SHARED


@given(facts, any_tier)
def test_whoever_is_invited_selects_as_anybody_does_of_a_public_model(model: ModelFacts, tier: Tier) -> None:
    public = replace(model, audience=Audience.PUBLIC if model.in_catalog else None)
    invited = rules.selection_reasons(Relation.INVITED, model, tier)
    assert invited == rules.selection_reasons(Relation.DEPLOYER, public, tier)


@given(facts)
def test_only_those_see_it_who_may(model: ModelFacts) -> None:
    seen = {relation for relation in Relation if rules.is_visible(relation, model)}
    always = {Relation.OWNER, Relation.PLATFORM, Relation.PLATFORM_INVITED}
    assert (
        seen - always
        == {
            None: set(),
            Audience.TARGETED: {Relation.INVITED},
            Audience.PUBLIC: {Relation.INVITED, Relation.DEPLOYER},
        }[model.audience]
    )
    assert always <= seen


@given(st.booleans(), st.sampled_from(Audience))
def test_only_what_is_public_is_featured(featured: bool, audience: Audience) -> None:
    assert rules.featured_after(featured=featured, audience=audience) == (featured and audience is Audience.PUBLIC)


@given(facts, relations, any_tier)
def test_the_role_binds_neither_owner_nor_platform(model: ModelFacts, relation: Relation, tier: Tier) -> None:
    bound = {Relation.DEPLOYER, Relation.INVITED}
    assert relation in bound or "role" not in {r.rule for r in rules.selection_reasons(relation, model, tier)}


@given(facts, any_tier)
def test_what_is_not_shared_is_selected_by_its_owner_only(model: ModelFacts, tier: Tier) -> None:
    """The platform is freed from the role, and acts for a project as to all else."""
    for platform, project in (
        (Relation.PLATFORM, Relation.DEPLOYER),
        (Relation.PLATFORM_INVITED, Relation.INVITED),
    ):
        reasons = rules.selection_reasons(platform, model, tier)
        freed = [r.rule for r in rules.selection_reasons(project, model, tier) if r.rule != "role"]
        refused = "recall" if model.is_recalled else "visibility"
        assert [r.rule for r in reasons] == (freed if freed != ["visibility"] else [refused])
    assert "visibility" not in {r.rule for r in rules.selection_reasons(Relation.OWNER, model, tier)}


@given(facts, relations, any_tier)
def test_every_refusal_says_why_and_what_to_do(model: ModelFacts, relation: Relation, tier: Tier) -> None:
    for reason in rules.selection_reasons(relation, model, tier):
        assert reason.message.endswith(".")
        assert reason.fix.endswith(".")


@given(facts, relations, any_tier)
def test_a_model_larger_than_the_tier_takes_is_refused(model: ModelFacts, relation: Relation, tier: Tier) -> None:
    refused_by = {reason.rule for reason in rules.selection_reasons(relation, model, tier)}
    if refused_by in ({"visibility"}, {"recall"}):
        return  # no more is said to whom the model is not there
    too_large = tier.max_model_bytes is not None and model.size_bytes > tier.max_model_bytes
    assert ("size" in refused_by) == too_large


@given(st.none() | st.sampled_from(CatalogRole), st.integers(0, 3), st.booleans(), st.booleans())
def test_what_a_change_of_endpoints_does_to_the_role(
    role: CatalogRole | None, remaining: int, came: bool, promotion: bool
) -> None:
    after = rules.role_after_change(
        role, shared_tier_endpoints=remaining, came_to_shared_tier=came, promotion=promotion
    )
    assert (after is None) == (role is None), "only share and unshare decide whether there is a role"
    if after is CatalogRole.SHARED:
        assert remaining > 0
        assert role is CatalogRole.SHARED or (came and promotion), "nothing else promotes"
    if role is not None and remaining and came and promotion:
        assert after is CatalogRole.SHARED
    if role is CatalogRole.DEPLOYABLE and not promotion:
        assert after is CatalogRole.DEPLOYABLE, "with promotion off nothing assigns `shared`"


@given(st.sampled_from(CatalogRole))
def test_allowed_tiers_are_those_a_deployer_may_select(role: CatalogRole) -> None:
    model = ModelFacts(ModelStatus.READY, role, 1, Audience.PUBLIC)
    selectable = [tier.slug for tier in BOOK if not rules.selection_reasons(Relation.DEPLOYER, model, tier)]
    assert rules.allowed_tiers(role, BOOK) == selectable


def test_active_is_ready_and_in_use() -> None:
    assert rules.status_of(ModelStatus.READY, 0) is ModelStatus.READY
    assert rules.status_of(ModelStatus.READY, 2) is ModelStatus.ACTIVE
    assert rules.status_of(ModelStatus.PROCESSING, 2) is ModelStatus.PROCESSING


def test_only_shared_tiers_may_evict_and_the_notes_say_so() -> None:
    for tier in BOOK:
        assert tier.may_evict == rules.is_shared_tier(tier.slug)
        assert ("may evict" in rules.tier_notes(tier)[0]) == tier.may_evict
