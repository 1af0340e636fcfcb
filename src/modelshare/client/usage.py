"""`/v1/usage`: requests, tokens and costs by day, endpoint, model, key, tier and version."""

from collections.abc import Sequence
from datetime import date
from typing import Final, Literal

from modelshare.client.call import Call, Paged, Resource, Transport, get, listed, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.limits import LimitState
from modelshare.wire.usage import UsageRow

Column = Literal["day", "endpoint", "model", "key", "tier", "version"]
ALL_COLUMNS: tuple[Column, ...] = ("day", "endpoint", "model", "key", "tier", "version")
BASE: Final = "/v1/usage"


class Usage(Resource[Transport]):
    @listed
    def limits(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[LimitState]]:
        """What is left now of the limits of endpoints and keys, and of the month's budgets."""
        return get("/v1/usage/limits", Page[LimitState], limit=limit)

    @listed
    def list(
        self,
        *,
        group_by: Sequence[Column] = ("day", "endpoint", "model", "key"),
        first: date | None = None,
        last: date | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Call[Paged[UsageRow]]:
        """Sums per group, newest day first. Days are UTC and inclusive; the last 30 by default."""
        return get(BASE, Page[UsageRow], group_by=",".join(group_by), limit=limit, **days(first, last))

    @sent
    def export(
        self,
        *,
        as_json: bool = False,
        first: date | None = None,
        last: date | None = None,
    ) -> Call[bytes]:
        """All rows as a file, CSV or JSON, oldest day first. Days as for `list`."""
        query = {"format": "json" if as_json else "csv", **days(first, last)}
        return Call("GET", f"{BASE}/export", bytes, query, repeatable=True)


def days(first: date | None, last: date | None) -> dict[str, str | None]:
    """The query that limits usage to these days."""
    return {"from": first.isoformat() if first else None, "to": last.isoformat() if last else None}
