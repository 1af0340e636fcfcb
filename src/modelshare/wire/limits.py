"""What is left now of limits and budgets."""

from enum import StrEnum
from typing import Literal

from modelshare.wire.base import Response, UnixSeconds


class LimitKind(StrEnum):
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    CONCURRENT_REQUESTS = "concurrent_requests"
    MONTHLY_TOKENS = "monthly_tokens"
    MONTHLY_BUDGET = "monthly_budget"
    """Money, in the platform's currency."""


class LimitState(Response):
    object: Literal["limit"] = "limit"
    subject: Literal["endpoint", "key", "project"]
    """Whose limit it is."""
    id: str
    name: str
    """The endpoint's or the project's slug, or the key's name."""
    kind: LimitKind
    limit: float
    used: float
    """Of a limit per minute: what has not been refilled yet. It may exceed the limit by a burst or an overdraft."""
    remaining: float
    resets_at: UnixSeconds | None
    """When all of it is there again. None for concurrent requests."""
