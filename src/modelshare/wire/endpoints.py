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
"""An id, `owner/name` or a name. Limits only the length: a reference to nothing is reported as an unknown model."""
VERSION_CHOICE_PATTERN = rf"^latest$(?!\n)|{SEMVER_PATTERN}"
VersionChoice = Annotated[str, Field(pattern=VERSION_CHOICE_PATTERN, max_length=MAX_VERSION)]


class EndpointStatus(StrEnum):
    PROVISIONING = "provisioning"
    ACTIVE = "active"
    DEGRADED = "degraded"
    """It has served before, but no agent is ready now."""
    INACTIVE = "inactive"
    FAILED = "failed"


class EndpointCreate(Request):
    slug: EndpointSlug
    model: Annotated[str, Field(pattern=MODEL_REFERENCE_PATTERN)]
    """The model's id, `owner/name`, or the name of one of the project's own models."""
    tier: TierSlug
    version: VersionChoice = "latest"
    file: ModelFile | None = None
    """Selects one of the version's models by one of its files (see the model's `choices`); None selects the default. An
    endpoint that follows `latest` stays at the last version that contains the file."""


class EndpointPatch(Request):
    is_active: bool | None = None
    tier: TierSlug | None = None
    version: VersionChoice | None = None
    file: ModelFile | None = None
    """As in `EndpointCreate`; null selects the version's default model again."""


class EndpointProgress(Response):
    """Progress of the most advanced agent."""

    phase: str
    bytes_done: int
    bytes_total: int


class PrefixCache(Response):
    """How often engines could reuse what they had computed for earlier turns of a conversation.

    Counted by the server process that answers, since its start, for endpoints with several machines.
    """

    requests: int
    """Requests of conversations that had been seen before."""
    hits: int
    """Those that were sent to the conversation's machine."""


class EndpointQueue(Response):
    """Requests that wait for their turn. Counted by the server process that answers."""

    waiting: int
    longest_seconds: float
    """How long the oldest of them has waited."""


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
    """Why an endpoint that follows `latest` stays at a version: the model is no longer shared with its project."""
    file: str | None = None
    """The chosen file; None for the version's default model."""
    status: EndpointStatus
    status_reason: str | None
    progress: EndpointProgress | None
    is_active: bool
    base_url: str
    """To be used with an OpenAI client."""
    recall: RecallNotice | None = None
    """Set while the model's owner is recalling it: the endpoint stops at the deadline."""
    prefix_cache: PrefixCache | None = None
    """None in lists, and where nothing was counted."""
    queue: EndpointQueue | None = None
    """None in lists, and where the tier has no queue."""
    created_at: UnixSeconds


class EndpointToken(Response):
    """By which Hugging Face clients read the files that an endpoint runs."""

    object: Literal["endpoint.token"] = "endpoint.token"
    token: str
    """`hf_…`; shown this once."""


class Reason(Response):
    """One rule that prevents the deployment, an explanation, and how to satisfy it."""

    rule: str
    message: str
    fix: str


class Explanation(Response):
    object: Literal["endpoint.explanation"] = "endpoint.explanation"
    possible: bool
    reasons: list[Reason]
    notes: list[str] = Field(default_factory=list)
    """What is allowed but worth knowing, for example that shared tiers may evict a model."""
