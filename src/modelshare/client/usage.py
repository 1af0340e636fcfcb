"""`/v1/usage`: requests and tokens by day, endpoint, model and key."""

from collections.abc import Sequence
from datetime import date
from typing import Literal

from modelshare.client.call import Call, Paged, Resource, Transport, get, listed
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.limits import LimitState
from modelshare.wire.usage import UsageRow

Column = Literal["day", "endpoint", "model", "key"]
ALL_COLUMNS: tuple[Column, ...] = ("day", "endpoint", "model", "key")


class Usage(Resource[Transport]):
    @listed
    def limits(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[LimitState]]:
        """What is left now of the limits of endpoints and keys, and of the month's budgets."""
        return get("/v1/usage/limits", Page[LimitState], limit=limit)

    @listed
    def list(
        self,
        *,
        group_by: Sequence[Column] = ALL_COLUMNS,
        first: date | None = None,
        last: date | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Call[Paged[UsageRow]]:
        """Sums per group, newest day first. Days are UTC and inclusive; the last 30 by default."""
        days = {"from": first.isoformat() if first else None, "to": last.isoformat() if last else None}
        return get("/v1/usage", Page[UsageRow], group_by=",".join(group_by), limit=limit, **days)
