"""Sharing a model with others, claim links, and recalls."""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from modelshare.wire.base import Request, Response, Seconds, UnixSeconds
from modelshare.wire.text import check_text

LATEST_DEADLINE: Final = 7_258_118_400
"""January 1st, 2200, in Unix seconds."""


class Audience(StrEnum):
    """Who sees a model in the catalog."""

    PUBLIC = "public"
    TARGETED = "targeted"
    """Visible only to the projects that its owner named or that claimed a link."""


class LinkTerms(Request):
    expires_in: Seconds | None = None
    """Seconds until the link can no longer be claimed; existing claims remain."""
    max_uses: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Maximum number of projects that may claim it."""


class ToProjects(Request):
    """Exactly these projects: others lose access, and existing claim links are revoked."""

    projects: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(min_length=1, max_length=1000)]
    """Slugs or ids (`proj_...`)."""


class ToLink(Request):
    """Projects that claim a new link, in addition to those that the model is already shared with."""

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
    """The new audience. If omitted, an unshared model becomes public, and a shared one stays as it is."""

    audience: AudienceChoice | None = None


class ClaimLink(Response):
    """A claim link without its token, as shown to its owner."""

    object: Literal["share.link"] = "share.link"
    id: str
    expires_at: UnixSeconds | None
    max_uses: int | None
    uses: int
    created_at: UnixSeconds


class ClaimLinkWithToken(ClaimLink):
    token: str
    """The token (`msl_...`) with which another project claims the link; shown only once."""


class Claim(Request):
    token: Annotated[str, Field(min_length=1, max_length=200)]
    """The claim link's `msl_...`."""


class AudienceProject(Response):
    """A project that a targeted model is shared with."""

    slug: str
    name: str
    link: str | None
    """Id of the link that it claimed; None if the owner named it."""
    added_at: UnixSeconds


class RecallRequest(Request):
    """Recalls a model, or cancels its recall (`deadline` null)."""

    deadline: Annotated[int, Field(ge=0, le=LATEST_DEADLINE)] | None
    """When the endpoints of other projects stop, in Unix seconds. A time in the past stops them now."""
    reason: (
        Annotated[
            str,
            StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
            AfterValidator(check_text),
        ]
        | None
    ) = None
    """Shown to every deployer; required with a deadline."""

    @model_validator(mode="after")
    def _a_reason_of_a_recall(self) -> Self:
        if self.deadline is None and self.reason is not None:
            msg = "A `deadline` of null cancels a recall and takes no `reason`. Leave one of the two out."
            raise ValueError(msg)
        return self


class RecallNotice(Response):
    """A recall, as shown to deployers."""

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
    """Public name of the project that the machine belongs to; None for a shared machine of the platform."""
    asked_at: UnixSeconds
    confirmed_at: UnixSeconds | None
    """When it confirmed the deletion."""
    closed_at: UnixSeconds | None = None
    """When the model's owner stopped waiting for the confirmation."""


class Recall(Response):
    """The state of a recall. `notice` is None if there is none or it was cancelled."""

    object: Literal["model.recall"] = "model.recall"
    model: str
    notice: RecallNotice | None
    endpoints_serving: int
    """Active endpoints of other projects."""
    machines_holding: int
    """Machines with weights on disk that are not the owner's, including shared machines that serve the owner. One that
    was told to delete them counts until it confirms or the owner stops waiting. It cannot confirm while it is stopped
    or suspended, and a removed one never can."""
    weight_deletions: list[WeightsDeletion]
    """Machines that were told to delete the weights: since the recall was announced, or at any time if they have not
    confirmed it. Newest first."""

    @property
    def unconfirmed(self) -> list[WeightsDeletion]:
        """The deletions that are still pending, newest first."""
        return [each for each in self.weight_deletions if each.confirmed_at is None and each.closed_at is None]
