"""To whom a model is shared, claim links, and recalls."""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from modelshare.wire.base import Request, Response, Seconds, UnixSeconds
from modelshare.wire.text import check_text

LATEST_DEADLINE: Final = 7_258_118_400
"""The beginning of the year 2200, in Unix seconds."""


class Audience(StrEnum):
    """Who sees a model in the catalog."""

    PUBLIC = "public"
    TARGETED = "targeted"
    """The projects that its owner named or that claimed a link; nobody else learns of it."""


class LinkTerms(Request):
    expires_in: Seconds | None = None
    """Seconds until nobody can claim by the link any more; those that did stay."""
    max_uses: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Projects that may claim by it."""


class ToProjects(Request):
    """Exactly these projects: others that saw it no longer do, and its claim links end."""

    projects: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=1000)]
    """Slugs or ids (`proj_...`)."""


class ToLink(Request):
    """Whoever claims a new link, beside the projects that a targeted share shows to already."""

    link: LinkTerms


def _kind(value: Any) -> str | None:
    if value == Audience.PUBLIC:
        return "public"
    for kind, shape in (("projects", ToProjects), ("link", ToLink)):
        if isinstance(value, shape) or (isinstance(value, dict) and kind in value):
            return kind
    return None


AudienceChoice = Annotated[
    Annotated[Literal["public"], Tag("public")]
    | Annotated[ToProjects, Tag("projects")]
    | Annotated[ToLink, Tag("link")],
    Discriminator(
        _kind,
        custom_error_type="audience",
        custom_error_message='Use "public", {"projects": ["slug"]} or {"link": {"expires_in": seconds, "max_uses": 1}}',
    ),
]


class ShareRequest(Request):
    """To whom. Not said: everybody, where it is not shared yet; where it is, nothing changes."""

    audience: AudienceChoice | None = None


class ClaimLink(Response):
    """A claim link, as its owner sees it later."""

    object: Literal["share.link"] = "share.link"
    id: str
    expires_at: UnixSeconds | None
    max_uses: int | None
    uses: int
    created_at: UnixSeconds


class ClaimLinkWithToken(ClaimLink):
    token: str
    """`msl_...`: what another project claims by; shown this once."""


class Claim(Request):
    token: Annotated[str, Field(min_length=1, max_length=200)]
    """The claim link's `msl_...`."""


class AudienceProject(Response):
    """A project to which a targeted share shows."""

    slug: str
    name: str
    link: str | None
    """Id of the link it claimed by; None where the owner named it."""
    added_at: UnixSeconds


class RecallRequest(Request):
    """Calls a model back, or (`deadline` null) cancels that."""

    deadline: Annotated[int, Field(ge=0, le=LATEST_DEADLINE)] | None
    """When the endpoints of other projects stop, in Unix seconds; one that is past stops them now."""
    reason: (
        Annotated[
            str,
            StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
            AfterValidator(check_text),
        ]
        | None
    ) = None
    """What every deployer is told; needed with a deadline."""

    @model_validator(mode="after")
    def _a_reason_of_a_recall(self) -> Self:
        if self.deadline is None and self.reason is not None:
            msg = "A `deadline` of null cancels a recall and takes no `reason`. Leave one of the two out."
            raise ValueError(msg)
        return self


class RecallNotice(Response):
    """What a deployer is told of a recall."""

    deadline: UnixSeconds
    reason: str
    announced_at: UnixSeconds
    stopped_at: UnixSeconds | None
    """When the endpoints of other projects were stopped; None until then."""


class WeightsDeletion(Response):
    """A machine that was told to delete the weights."""

    deployment: str
    version: str
    project: str | None
    """Public name of the project whose machine it is; None for a shared machine of the platform."""
    asked_at: UnixSeconds
    confirmed_at: UnixSeconds | None
    """When it said that they are deleted."""
    closed_at: UnixSeconds | None = None
    """When the model's owner said not to wait for that any more."""


class Recall(Response):
    """Where a recall stands. Without `notice` there is none, or it was cancelled."""

    object: Literal["model.recall"] = "model.recall"
    model: str
    notice: RecallNotice | None
    endpoints_serving: int
    """Active endpoints of other projects."""
    machines_holding: int
    """Machines that are not the owner's and hold the weights: for them, or on a shared tier for the owner. One that was
    told to delete them counts until it confirms, or the owner closes that. While it is stopped or suspended it cannot
    confirm, and a removed one never can.
    """
    weight_deletions: list[WeightsDeletion]
    """Machines told to delete the weights that have not confirmed it, whether or not there is a recall, and those told
    since the recall was announced; the newest first."""

    @property
    def unconfirmed(self) -> list[WeightsDeletion]:
        """What is still waited for; the newest first."""
        return [each for each in self.weight_deletions if each.confirmed_at is None and each.closed_at is None]
