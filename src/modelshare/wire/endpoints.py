"""Endpoints, and the answer to "why can't I deploy this?"."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelshare.wire.base import EndpointSlug, Request, Response, UnixSeconds
from modelshare.wire.models import ModelFile
from modelshare.wire.semver import MAX_VERSION, SEMVER_PATTERN
from modelshare.wire.sharing import RecallNotice

TierSlug = Annotated[str, Field(max_length=100)]
MODEL_REFERENCE_PATTERN = r"^[^/]{0,100}(/[^/]{0,100})?$(?!\n)"
"""An id, `owner/name` or a name, as far as its length goes: what names nothing is told as a model that is not there."""
VERSION_CHOICE_PATTERN = rf"^latest$(?!\n)|{SEMVER_PATTERN}"
VersionChoice = Annotated[str, Field(pattern=VERSION_CHOICE_PATTERN, max_length=MAX_VERSION)]


class EndpointStatus(StrEnum):
    PROVISIONING = "provisioning"
    ACTIVE = "active"
    DEGRADED = "degraded"
    """It has served, and no agent is ready now."""
    INACTIVE = "inactive"
    FAILED = "failed"


class EndpointCreate(Request):
    slug: EndpointSlug
    model: Annotated[str, Field(pattern=MODEL_REFERENCE_PATTERN)]
    """The model's id, `owner/name`, or the name of one of the project's own."""
    tier: TierSlug
    version: VersionChoice = "latest"
    file: ModelFile | None = None
    """Which of the version's models, by a file of it (see `choices` of the model); None for the version's own. An
    endpoint that follows `latest` stays at the last version that has it."""


class EndpointPatch(Request):
    is_active: bool | None = None
    tier: TierSlug | None = None
    version: VersionChoice | None = None
    file: ModelFile | None = None
    """As for a new endpoint; null goes back to the version's own."""


class EndpointProgress(Response):
    """What the most advanced agent is doing for the endpoint."""

    phase: str
    bytes_done: int
    bytes_total: int


class Endpoint(Response):
    object: Literal["endpoint"] = "endpoint"
    id: str
    slug: str
    model: str | None
    """The model's id; None after its owner deleted it."""
    model_name: str | None
    tier: str
    version: str
    """`latest` or a fixed version."""
    resolved_version: str | None
    version_note: str | None = None
    """Why it stays at a version although it follows `latest`: the model is not shared with its project any more."""
    file: str | None = None
    """The file that was chosen; None for the version's own model."""
    status: EndpointStatus
    status_reason: str | None
    progress: EndpointProgress | None
    is_active: bool
    base_url: str
    """For the OpenAI client."""
    recall: RecallNotice | None = None
    """The model's owner calls it back: the endpoint stops at the deadline."""
    created_at: UnixSeconds


class EndpointToken(Response):
    """By which Hugging Face clients read the files that an endpoint runs."""

    object: Literal["endpoint.token"] = "endpoint.token"
    token: str
    """`hf_…`; shown this once."""


class Reason(Response):
    """One rule that stands in the way, in words, and what would make it possible."""

    rule: str
    message: str
    fix: str


class Explanation(Response):
    object: Literal["endpoint.explanation"] = "endpoint.explanation"
    possible: bool
    reasons: list[Reason]
    notes: list[str] = Field(default_factory=list)
    """What is allowed but worth knowing, such as that shared tiers may evict a model."""
