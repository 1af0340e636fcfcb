"""What endpoints need besides the database: tiers, a setting, and information from the fleet."""

import time
import uuid
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import Caller
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.tiers import SharingPlatform, TierRegistry
from modelshare.wire.endpoints import EndpointQueue, PrefixCache
from modelshare.wire.sharing import WeightsDeletion
from modelshare.wire.tiers import Tier

_COUNTED: Final = 10_000
"""Endpoints whose hits are counted, the ones that began last."""


class LiveCounts(NamedTuple):
    """What the process that answers counts, since its start. None: nothing is counted."""

    prefix_cache: PrefixCache | None = None
    queue: EndpointQueue | None = None


class PrefixHits:
    """How many requests of known conversations went to the conversation's machine. Of one process, since its start."""

    def __init__(self) -> None:
        self.hits = self.misses = 0
        self._counts: dict[int, list[int]] = {}
        """Requests and hits, by the endpoint's id as a number."""

    def count(self, endpoint_id: uuid.UUID, *, is_hit: bool) -> None:
        counts = self._counts.get(endpoint_id.int)
        if counts is None:
            if len(self._counts) >= _COUNTED:
                del self._counts[next(iter(self._counts))]
            counts = self._counts[endpoint_id.int] = [0, 0]
        counts[0] += 1
        if is_hit:
            counts[1] += 1
            self.hits += 1
        else:
            self.misses += 1

    def of(self, endpoint_id: uuid.UUID) -> PrefixCache | None:
        """None if there were no such requests."""
        counts = self._counts.get(endpoint_id.int)
        return None if counts is None else PrefixCache(requests=counts[0], hits=counts[1])


class WaitingRequests:
    """Requests that wait for their turn in this process, by endpoint."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[uuid.UUID, dict[Hashable, float]] = {}

    def begin(self, endpoint_id: uuid.UUID, request: Hashable, since: float) -> None:
        """`since`: when it began to wait, by the clock."""
        self._since.setdefault(endpoint_id, {})[request] = since

    def end(self, endpoint_id: uuid.UUID, request: Hashable) -> None:
        waiting = self._since[endpoint_id]
        del waiting[request]
        if not waiting:
            del self._since[endpoint_id]

    def of(self, endpoint_id: uuid.UUID, tier: Tier | None) -> EndpointQueue | None:
        """None if the tier lets no requests wait."""
        if tier is None or not tier.queue_seconds:
            return None
        waiting = self._since.get(endpoint_id, {}).values()
        longest = self._clock() - min(waiting) if waiting else 0
        return EndpointQueue(waiting=len(waiting), longest_seconds=round(longest, 3))


class Capacity(Protocol):
    """Returns notes for a deployer about the agents of a tier. Implemented by the fleet."""

    async def __call__(self, session: AsyncSession, caller: Caller, tier: Tier) -> list[str]: ...


class Weights(Protocol):
    """Returns the number of agents of other projects that have a model's weights or have not confirmed their deletion,
    and the requests to delete them: all since `since` and unconfirmed older ones, or with None only unconfirmed ones.
    Implemented by the fleet.
    """

    async def __call__(
        self, session: AsyncSession, model: ModelRow, *, since: int | None
    ) -> tuple[int, list[WeightsDeletion]]: ...


def tier_signers(tier: Tier) -> str | None:
    """What the tier requires of a version's signature, as `EndpointRow.tier_signers` has it.

    None: nothing. Else the ids of the keys that it allows, with spaces between; none of them: those that each model's
    owner has registered.
    """
    return " ".join(sorted(tier.allowed_signers)) if tier.require_signature else None


@dataclass(frozen=True)
class EndpointPolicy:
    """The platform's tiers, whether endpoints promote models, and what others know of them."""

    tiers: TierRegistry
    promotion: bool
    capacity: Capacity
    weights: Weights
    prefix_hits: PrefixHits = field(default_factory=PrefixHits)
    waiting: WaitingRequests = field(default_factory=WaitingRequests)

    def live(self, endpoint_id: uuid.UUID, tier: str) -> LiveCounts:
        """What this process counts of the endpoint's requests."""
        return LiveCounts(self.prefix_hits.of(endpoint_id), self.waiting.of(endpoint_id, self.tiers.get(tier)))

    def tier_signers(self, slug: str) -> str | None:
        """Of the tier with this slug; see the function of this name."""
        tier = self.tiers.get(slug)
        return tier_signers(tier) if tier else None


@dataclass(frozen=True, kw_only=True)
class EndpointsPlatform(SharingPlatform):
    endpoint_policy: EndpointPolicy
