"""Service tiers and the limits that each one enforces."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelshare.wire.base import Response

MAX_QUEUE_SECONDS = 600
_ProjectId = Annotated[str, Field(pattern=r"^proj_[0-9a-f]{12}$")]
_Count = Annotated[int, Field(ge=1)]

SELF_HOSTED = "self_hosted"
"""The one tier that runs on the deployer's own machines; every other tier is a shared tier."""


class TierCategory(StrEnum):
    FREE = "free"
    COMPUTE = "compute"
    SELF_HOSTED = "self_hosted"


class Tier(Response):
    """Limits are enforced per endpoint by the router; `None` means no limit."""

    object: Literal["tier"] = "tier"
    slug: str
    name: str
    category: TierCategory
    accelerator: str | None = None
    """`cpu`, `nvidia`, `amd`, `intel`, or None if it depends on the deployer's own machine."""
    tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    burst_percent: int = 50
    """By how much requests may exceed `requests_per_minute` in one burst."""
    max_concurrent_requests: int
    """Maximum number of concurrent sequences (one per answer to a prompt). A request is admitted while fewer are
    running."""
    max_sequences_per_request: _Count = 128
    """Maximum of prompts times answers to each (`n`, `best_of`) in one request."""
    max_inputs_per_request: _Count = 2048
    """Maximum number of texts to embed in one request."""
    queue_seconds: Annotated[float, Field(ge=0, le=MAX_QUEUE_SECONDS)] = 0
    """How long a request may wait for its turn when a limit is reached or all machines are busy; 0: it is refused."""
    weights: dict[_ProjectId, Annotated[float, Field(ge=0.01, le=1000)]] = Field(default_factory=dict, exclude=True)
    """Shares of turns, by project; 1 for others. Only in the tiers file: projects do not see those of others."""
    request_timeout_seconds: int
    stream_idle_timeout_seconds: int
    max_model_bytes: int | None = None
    price_per_million_tokens: float | None = None
    may_evict: bool
    """Shared tiers may evict a model for capacity; `self_hosted` never does."""
    require_signature: bool = False
    """Only versions that are signed may be deployed on it."""
    allowed_signers: list[str] = Field(default_factory=list)
    """Ids of the keys whose signatures count; none: those that each model's owner has registered. In the tiers file
    also public keys in PEM form."""
