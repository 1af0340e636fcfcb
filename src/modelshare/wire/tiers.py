"""Service tiers and the limits that each one enforces."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from modelshare.wire.base import Response

MAX_QUEUE_SECONDS = 600
_ProjectId = Annotated[str, Field(pattern=r"^proj_[0-9a-f]{12}$")]
_Count = Annotated[int, Field(ge=1)]

PRICE_SCALE: Final = 10**6
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
    price_per_million_tokens: Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)] | None = None
    """In the platform's currency, with up to six decimals. Prompts and answers cost the same."""
    may_evict: bool
    """Shared tiers may evict a model for capacity; `self_hosted` never does."""
    require_signature: bool = False
    """Only versions that are signed may be deployed on it."""
    allowed_signers: list[str] = Field(default_factory=list)
    """Ids of the keys whose signatures count; none: those that each model's owner has registered. In the tiers file
    also public keys in PEM form."""

    @field_validator("price_per_million_tokens")
    @classmethod
    def _has_six_decimals(cls, price: float | None) -> float | None:
        if price is not None and _scaled(price) % 1:
            raise ValueError("use at most six decimals")
        return price

    @property
    def token_price(self) -> int:
        """The price of a token in millionths of a millionth of the currency's unit, which is exact."""
        return int(_scaled(self.price_per_million_tokens or 0.0))


def _scaled(price: float) -> Decimal:
    return Decimal(repr(price)) * PRICE_SCALE
