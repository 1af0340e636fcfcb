"""What is left now of the limits of a project's endpoints and keys, and of its budgets."""

import math
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import service as accounts
from modelshare.server.endpoints import service as endpoints
from modelshare.server.endpoints.policy import EndpointsPlatform
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.server.router import queries
from modelshare.server.router.admission import Admission
from modelshare.server.router.ledger_rules import Limit, threshold
from modelshare.server.router.stated_limits import (
    Budget,
    Month,
    StatedLimit,
    month_of,
    of_key,
    of_project,
    of_tier,
    slots_of,
)
from modelshare.wire.base import Page
from modelshare.wire.keys import MICROS, KeyLimits
from modelshare.wire.limits import LimitKind, LimitState
from modelshare.wire.tiers import Tier

_KEYS: Final = 200
"""Keys shown, the newest of those that have limits."""


@dataclass(frozen=True, kw_only=True)
class RouterPlatform(EndpointsPlatform):
    admission: Admission


class _Asked(NamedTuple):
    """A limit whose state is to be found out."""

    subject: str
    kind: LimitKind
    limit: Limit
    of: Literal["endpoint", "key", "project"]
    id: str
    name: str
    budget: Budget | None = None

    def state(self, used: float, now: float) -> LimitState:
        unit = MICROS if self.kind is LimitKind.MONTHLY_BUDGET else 1
        capacity, per_minute = self.limit
        left = max(0.0, min(capacity - used, per_minute or capacity))
        return LimitState(
            subject=self.of,
            id=self.id,
            name=self.name,
            kind=self.kind,
            limit=(per_minute or capacity) / unit,
            used=round(used / unit, 6),
            remaining=round(left / unit, 6) if unit > 1 else math.floor(left),
            resets_at=int(now) + math.ceil(used * 60 / per_minute)
            if per_minute
            else (self.budget.month.ends_at if self.budget else None),
        )


async def page(session: AsyncSession, platform: RouterPlatform, caller: Caller, paging: Paging) -> Page[LimitState]:
    """Of endpoints, newest first; the first page has the project's budget and the keys' limits as well."""
    now = platform.clock()
    rows, cursor = await endpoints.page(session, caller, paging)
    asked: list[_Asked] = []
    if paging.after is None:
        asked += await _of_project(session, caller, month_of(now))
    for row in rows:
        tier = platform.tiers.get(row.tier)
        if tier is not None and row.is_active:
            asked += _of_endpoint(row.id, row.slug, tier)
    used = await _used(session, platform.admission, asked, now)
    return Page.of([each.state(used.get(each.subject, 0), now) for each in asked], cursor)


async def strained_budgets(session: AsyncSession, platform: RouterPlatform, caller: Caller) -> list[LimitState]:
    """Budgets of the project and its keys that are used up, or nearly so."""
    now = platform.clock()
    asked = [each for each in await _of_project(session, caller, month_of(now)) if each.budget is not None]
    used = await _used(session, platform.admission, asked, now)
    found = [(each, used.get(each.subject, 0)) for each in asked]
    return [each.state(amount, now) for each, amount in found if threshold(amount, each.limit.capacity)]


async def _of_project(session: AsyncSession, caller: Caller, month: Month) -> list[_Asked]:
    project = await accounts.own_project(session, caller)
    found: list[_Asked] = []
    if project.monthly_budget is not None:
        stated = of_project(project.id, round(project.monthly_budget * MICROS), month)
        found.append(_asked(stated, "project", project.id, project.slug))
    for key in await accounts.limited_keys(session, caller, _KEYS):
        limits = KeyLimits(key.requests_per_minute, key.tokens_per_minute, key.monthly_token_budget)
        stated_of_key = of_key(project.id, uuid.UUID(key.id), limits, month)
        found += [_asked(stated, "key", key.id, key.name) for stated in stated_of_key]
    return found


def _of_endpoint(id_: uuid.UUID, slug: str, tier: Tier) -> Iterator[_Asked]:
    for stated in of_tier(id_, tier):
        yield _asked(stated, "endpoint", str(id_), slug)
    slots = Limit(tier.max_concurrent_requests)
    yield _Asked(slots_of(id_), LimitKind.CONCURRENT_REQUESTS, slots, "endpoint", str(id_), slug)


def _asked(stated: StatedLimit, of: Literal["endpoint", "key", "project"], id_: str, name: str) -> _Asked:
    return _Asked(stated.subject, stated.kind, stated.limit, of, id_, name, stated.budget)


async def _used(session: AsyncSession, admission: Admission, asked: Collection[_Asked], now: float) -> dict[str, float]:
    """What is used and not refilled yet; from memory where this process counts alone."""
    found = {each.subject: used for each in asked if (used := admission.used_alone(each.subject)) is not None}
    stored = {each.subject: each for each in asked if each.subject not in found}
    for row in await queries.ledger(session, list(stored)):
        each = stored[row.subject]
        found[row.subject] = max(0.0, row.used - max(0.0, now - row.updated_at) * each.limit.per_minute / 60)
        if each.kind is LimitKind.CONCURRENT_REQUESTS:
            found[row.subject] = sum(loan[0] for loan in row.loans.values() if loan[2] > now)
    await _add_usage(session, [(each, each.budget) for each in asked if each.budget is not None], found)
    return found


async def _add_usage(
    session: AsyncSession, budgets: Collection[tuple[_Asked, Budget]], found: dict[str, float]
) -> None:
    """What was used before there was a budget counts, even if no request has come since. All are of one project."""
    if not budgets:
        return
    any_budget = next(budget for _, budget in budgets)
    used = await queries.used_by_key(session, any_budget.project_id, any_budget.month.name)
    for each, budget in budgets:
        before = used.get(budget.key_id, (0, 0.0))[0] if budget.key_id else sum(micros for _, micros in used.values())
        found[each.subject] = max(found.get(each.subject, 0), before)
