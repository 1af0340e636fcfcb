"""The rules of sharing: who sees a model, who may select it on which tier, and how that changes its role.

Pure functions. Routes, lists, pages, explain and the router all use them, so that they cannot disagree.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from modelshare.wire.endpoints import Reason
from modelshare.wire.models import CatalogRole, ModelStatus
from modelshare.wire.sharing import Audience
from modelshare.wire.signers import SignatureState
from modelshare.wire.tiers import SELF_HOSTED, Tier
from modelshare.wire.units import size


class Relation(Enum):
    """The relation of a caller to a model."""

    OWNER = "owner"
    INVITED = "invited"
    """Another project, in the audience of the model's targeted share."""
    DEPLOYER = "deployer"
    """Any other project."""
    PLATFORM = "platform"
    """The platform, acting for another project outside the audience of a targeted share."""
    PLATFORM_INVITED = "platform for an invited project"
    """The platform, acting for a project in the audience."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's properties that the rules use. `role` and `audience` are None if and only if it is not in the
    catalog."""

    status: ModelStatus
    """Of the requested version if that is ready, else of the model's current version."""
    role: CatalogRole | None
    size_bytes: int
    """Of the requested version."""
    audience: Audience | None
    is_recalled: bool = False
    lacks_signature: bool = False
    """Its owner's project requires signatures, and the version that stands for the model has no valid one."""

    @property
    def in_catalog(self) -> bool:
        return self.role is not None


SHAREABLE = frozenset({ModelStatus.READY, ModelStatus.ACTIVE})


def is_shared_tier(tier: str) -> bool:
    """Every tier but `self_hosted` is a shared tier."""
    return tier != SELF_HOSTED


def status_of(version_status: ModelStatus, active_endpoints: int) -> ModelStatus:
    """`active` is ready and in use."""
    return ModelStatus.ACTIVE if version_status is ModelStatus.READY and active_endpoints else version_status


def is_visible(relation: Relation, facts: ModelFacts) -> bool:
    """The owner and the platform always see a model, invited projects while it is in the catalog, and others while it
    is public.
    """
    return relation in _PLATFORM or _is_shared_with(relation, facts)


_PLATFORM = frozenset({Relation.PLATFORM, Relation.PLATFORM_INVITED})


def _is_shared_with(relation: Relation, facts: ModelFacts) -> bool:
    """Whether the model is shared with the project now."""
    match relation:
        case Relation.OWNER:
            return True
        case Relation.INVITED | Relation.PLATFORM_INVITED:
            return facts.in_catalog
        case Relation.DEPLOYER | Relation.PLATFORM:
            return facts.audience is Audience.PUBLIC


@dataclass(frozen=True, slots=True)
class LastShown:
    """The versions of a model when a project could last see it: its endpoints get no later ones."""

    version_id: uuid.UUID | None
    """The latest version at that time."""
    versions: frozenset[uuid.UUID]
    """Versions that could be selected."""


NEVER_SHOWN = LastShown(None, frozenset())


def stays_at(
    *, is_owner: bool, audience: Audience | None, is_invited: bool, own: LastShown | None, everybody: LastShown | None
) -> LastShown | None:
    """The state at which a project's endpoints of a model stay; None while it can see the model, so that they follow.

    `audience`: None while it is not shared. `is_invited`: the project is in the audience of its targeted share. `own`,
    `everybody`: the state when it was last visible to this project, and to the public; the former is newer.
    """
    if is_owner or audience is Audience.PUBLIC or (audience is Audience.TARGETED and is_invited):
        return None
    return own or everybody or NEVER_SHOWN


class ReadyVersion(Protocol):
    """The attributes of a ready version that the rules use."""

    @property
    def id(self) -> uuid.UUID: ...
    @property
    def version(self) -> str: ...
    @property
    def is_latest(self) -> bool: ...


AnyVersion = TypeVar("AnyVersion", bound=ReadyVersion)


class SignedVersion(Protocol):
    """A version, as far as requirements of signatures need to know it."""

    @property
    def version(self) -> str: ...
    @property
    def signature_state(self) -> str: ...
    @property
    def signer(self) -> str | None: ...
    @property
    def signature_key(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class SignatureRequirement:
    """Somebody who lets only signed versions be deployed."""

    of: str
    """Who: `Your project`, say."""
    remedy: str
    """What else than a signature helps, as a part of a sentence."""
    allowed: frozenset[str] = frozenset()
    """Ids of the keys whose signatures count; none: those that the model's owner has registered."""

    def is_met(self, version: SignedVersion) -> bool:
        if self.allowed:
            return version.signature_key in self.allowed
        return version.signature_state == SignatureState.VALID


def signature_reason(version: SignedVersion, requirements: Iterable[SignatureRequirement]) -> Reason | None:
    """The first requirement that the version does not meet."""
    for each in requirements:
        if not each.is_met(version):
            return Reason(
                rule="signature",
                message=f"{each.of} requires a signature, and version {version.version} {_unsigned(version)}.",
                fix=f"Ask the model's owner to sign it (`modelshare sign`), or {each.remedy}.",
            )
    return None


def _unsigned(version: SignedVersion) -> str:
    match SignatureState(version.signature_state):
        case SignatureState.NONE:
            return "has none"
        case SignatureState.INVALID:
            return "has an invalid one"
        case SignatureState.UNKNOWN_SIGNER:
            return "is signed with a key that its owner's project has not registered"
        case SignatureState.VALID:
            return f"is signed by {version.signer}, which is not among the allowed signers"


def choosable(ready: Iterable[AnyVersion], shown: LastShown | None) -> list[AnyVersion]:
    """The versions that may be selected for an endpoint."""
    return [each for each in ready if shown is None or each.id in shown.versions]


def version_wanted(wanted: str | None, ready: Iterable[AnyVersion], shown: LastShown | None) -> AnyVersion | None:
    """The version that an endpoint gets: the one it is fixed to, or (None) the latest of those it may have.

    This alone defines what `latest` means for an endpoint.
    """
    for each in choosable(ready, shown):
        if wanted is not None:
            found = each.version == wanted
        else:
            found = each.is_latest if shown is None else each.id == shown.version_id
        if found:
            return each
    return None


def share_refusal(facts: ModelFacts | None) -> str | None:
    """Why the caller may not share the model, as a sentence; None if it may. Without facts: it is not the caller's."""
    if facts is None:
        return "There is no such model in your project. GET /v1/models lists yours."
    if facts.is_recalled:
        return "This model is being recalled and cannot be shared. Cancel the recall first."
    if facts.status in SHAREABLE and facts.lacks_signature:
        return (
            "Your project requires signatures, and this version has no valid one. Sign it with `modelshare sign`, "
            "or turn that off with `modelshare signers require --off`."
        )
    if facts.status in SHAREABLE:
        return None
    if facts.status is ModelStatus.FAILED:
        return (
            "This model failed its checks and cannot be shared. Fix the problem shown in its status, and push it again."
        )
    return f"This model is still {facts.status.value}. Share it again once it is ready."


def role_on_share(current: CatalogRole | None) -> CatalogRole:
    """A new share starts as `deployable`, even with active endpoints; sharing a shared model again keeps its role."""
    return current or CatalogRole.DEPLOYABLE


def role_after_change(
    current: CatalogRole | None, *, shared_tier_endpoints: int, came_to_shared_tier: bool, promotion: bool
) -> CatalogRole | None:
    """The role after an endpoint was created, moved, activated, deactivated or deleted.

    `shared_tier_endpoints`: active ones after the change. `came_to_shared_tier`: the change created or activated an
    endpoint on a shared tier, or moved one there. `promotion`: the setting `catalog.promotion`.
    """
    if current is None:
        return None
    if shared_tier_endpoints == 0:
        return CatalogRole.DEPLOYABLE
    if came_to_shared_tier and promotion:
        return CatalogRole.SHARED
    return current


def featured_after(*, featured: bool, audience: Audience) -> bool:
    """Only public models are featured, since everyone sees featured models."""
    return featured and audience is Audience.PUBLIC


def allowed_tiers(role: CatalogRole, tiers: Iterable[Tier]) -> list[str]:
    """The tiers on which projects may select a model of this role from the catalog."""
    return [tier.slug for tier in tiers if role is CatalogRole.SHARED or not is_shared_tier(tier.slug)]


def selection_reasons(relation: Relation, facts: ModelFacts, tier: Tier, *, promotion: bool = True) -> list[Reason]:
    """Why this caller cannot select this model for a new endpoint on this tier; empty if it can.

    "New" includes moving an endpoint to another tier and activating it again. `promotion`: see `role_after_change`.
    """
    if not is_visible(relation, facts):
        return [invisible()]
    if facts.is_recalled and relation is not Relation.OWNER:
        return [recalled()]
    if not _is_shared_with(relation, facts):
        return [_not_shared()]
    reasons = []
    bound = relation in {Relation.DEPLOYER, Relation.INVITED}
    if bound and facts.role is CatalogRole.DEPLOYABLE and is_shared_tier(tier.slug):
        reasons.append(
            Reason(
                rule="role",
                message=f"The model's catalog role is `deployable`: it may be selected on `{SELF_HOSTED}` only, "
                f"not on `{tier.slug}`.",
                fix=f"Choose the tier `{SELF_HOSTED}` and run your own agent"
                + (
                    ", or ask the owner to deploy the model on a shared tier, which gives it the role `shared`."
                    if promotion
                    else ". On this platform, no model gets the role `shared`."
                ),
            )
        )
    if facts.status not in SHAREABLE:
        reasons.append(
            Reason(
                rule="status",
                message=f"The model is not ready: its status is `{facts.status.value}`.",
                fix="Wait until it is ready; if it failed, its owner can see the reason and push it again.",
            )
        )
    return reasons + size_reasons(facts, tier)


def size_reasons(facts: ModelFacts, tier: Tier) -> list[Reason]:
    """Why a model of this size does not fit the tier; for new endpoints and changes of the version."""
    if tier.max_model_bytes is None or facts.size_bytes <= tier.max_model_bytes:
        return []
    return [
        Reason(
            rule="size",
            message=f"The model has {size(facts.size_bytes)}, but `{tier.slug}` allows at most "
            f"{size(tier.max_model_bytes)}.",
            fix="Choose a tier without this limit, or a smaller quantization of the model.",
        )
    ]


def invisible() -> Reason:
    """The same reason for models that do not exist and models that are not visible."""
    return Reason(
        rule="visibility",
        message="There is no such model in your project or the catalog.",
        fix="Check the ID in the catalog; its owner may have unshared it.",
    )


def _not_shared() -> Reason:
    """The platform may ignore the role, but cannot select models that are not shared."""
    return Reason(
        rule="visibility",
        message="The model is not shared with this project, so only its owner can select it for a new endpoint.",
        fix="Ask its owner to share it.",
    )


def recalled(reason: str | None = None) -> Reason:
    """Why only the owner may create, move or activate an endpoint of a model under recall."""
    said = f": {reason.rstrip('.')}" if reason else ""
    return Reason(rule="recall", message=f"The model was recalled by its owner{said}.", fix="Deploy another model.")


def unknown_tier(slug: str, tiers: Iterable[Tier]) -> Reason:
    return Reason(
        rule="tier",
        message=f"There is no tier `{slug}`.",
        fix=f"Choose one of: {', '.join(tier.slug for tier in tiers)}.",
    )


def no_such_version(wanted: str, ready: Sequence[str], *, has_latest: bool) -> Reason:
    """`ready`: the versions that can be chosen."""
    choice = f"{'`latest` or ' if has_latest else ''}one of: {', '.join(ready)}"
    return Reason(
        rule="version",
        message=f"The model has no ready version `{wanted}`.",
        fix=f"Choose {choice}." if ready else "Wait until one is ready, or ask the model's owner.",
    )


def tier_notes(tier: Tier) -> list[str]:
    """Notes for a deployer about an allowed tier."""
    if tier.may_evict:
        return [
            f"`{tier.slug}` is a shared tier and may evict the model for capacity; for guaranteed availability, "
            f"use `{SELF_HOSTED}`."
        ]
    return [
        f"`{tier.slug}` runs on your own machines: it serves while one of your agents is connected, and never "
        "evicts the model."
    ]
