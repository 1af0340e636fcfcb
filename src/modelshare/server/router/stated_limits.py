"""Which limits there are: of an endpoint's tier, of a key, and budgets of the month. Pure."""

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from modelshare.server.router.ledger_rules import Limit
from modelshare.wire.keys import MICROS, KeyLimits
from modelshare.wire.limits import LimitKind
from modelshare.wire.tiers import Tier


class Month(NamedTuple):
    name: str
    """Such as `2026-11`."""
    ends_at: int
    """When the next one begins (UTC), in Unix seconds."""


class Budget(NamedTuple):
    """What a project, or one of its keys, may use in a month."""

    project_id: str
    key_id: uuid.UUID | None
    """None: the project's own, in millionths of the platform's currency; a key's is in tokens."""
    month: Month


class StatedLimit(NamedTuple):
    """A limit that is used up; those of concurrent requests are `slots_of`."""

    subject: str
    """Its name in the ledger."""
    kind: LimitKind
    limit: Limit
    refusal: str
    """Why a request is refused."""
    token_weight: float = 0
    """What one token takes. 0: it is requests that count."""
    budget: Budget | None = None


def month_of(now: float) -> Month:
    first = dt.datetime.fromtimestamp(now, dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + dt.timedelta(days=31)).replace(day=1)
    return Month(f"{first:%Y-%m}", int(following.timestamp()))


def slots_of(endpoint_id: uuid.UUID | None) -> str:
    """The name in the ledger of an endpoint's concurrent requests."""
    return f"endpoint/{endpoint_id}/slots"


def endpoint_of(slots: str) -> uuid.UUID:
    """The endpoint whose `slots_of` these are."""
    return uuid.UUID(slots.split("/")[1])


def of_tier(endpoint_id: uuid.UUID | None, tier: Tier) -> Iterator[StatedLimit]:
    name = f"endpoint/{endpoint_id}"
    if tier.tokens_per_minute is not None:
        said = f"The tier `{tier.slug}` allows {tier.tokens_per_minute} tokens per minute, and they are used up."
        yield _tokens(name, tier.tokens_per_minute, said)
    if tier.requests_per_minute is not None:
        said = f"The tier `{tier.slug}` allows {tier.requests_per_minute} requests per minute."
        yield _requests(name, tier.requests_per_minute, said, 1 + tier.burst_percent / 100)


def of_key(project_id: str, key_id: uuid.UUID, limits: KeyLimits, month: Month) -> Iterator[StatedLimit]:
    name = f"key/{key_id}"
    if limits.tokens_per_minute is not None:
        said = f"This key may use {limits.tokens_per_minute} tokens per minute, and they are used up."
        yield _tokens(name, limits.tokens_per_minute, said)
    if limits.requests_per_minute is not None:
        said = f"This key may send {limits.requests_per_minute} requests per minute."
        yield _requests(name, limits.requests_per_minute, said)
    if limits.monthly_token_budget is not None:
        yield StatedLimit(
            f"{name}/{month.name}",
            LimitKind.MONTHLY_TOKENS,
            Limit(limits.monthly_token_budget),
            f"This key has used its {limits.monthly_token_budget} tokens of {month.name}. {_WHO_RAISES}",
            token_weight=1,
            budget=Budget(project_id, key_id, month),
        )


def of_project(project_id: str, monthly_budget: int, month: Month, price: float = 0) -> StatedLimit:
    """`monthly_budget`: in millionths of the platform's currency. `price`: of a million tokens."""
    return StatedLimit(
        f"project/{project_id}/{month.name}",
        LimitKind.MONTHLY_BUDGET,
        Limit(monthly_budget),
        f"The project has used its budget of {monthly_budget / MICROS:g} of {month.name}. {_WHO_RAISES}",
        token_weight=price,
        budget=Budget(project_id, None, month),
    )


_WHO_RAISES = "An owner of the project can raise it, and so can a key with the scope `keys`."


def _tokens(name: str, per_minute: int, refusal: str) -> StatedLimit:
    limit = Limit(per_minute, per_minute)
    return StatedLimit(f"{name}/tokens", LimitKind.TOKENS_PER_MINUTE, limit, refusal, token_weight=1)


def _requests(name: str, per_minute: int, refusal: str, burst: float = 1) -> StatedLimit:
    limit = Limit(per_minute * burst, per_minute)
    return StatedLimit(f"{name}/requests", LimitKind.REQUESTS_PER_MINUTE, limit, refusal)
