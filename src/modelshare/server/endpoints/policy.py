"""What decides about endpoints beside the rows of the database."""

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import Caller
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.tiers import SharingPlatform, TierRegistry
from modelshare.wire.sharing import WeightsDeletion
from modelshare.wire.tiers import Tier


class Capacity(Protocol):
    """Says what a deployer should know of the machines behind a tier; the fleet answers."""

    async def __call__(self, session: AsyncSession, caller: Caller, tier: Tier) -> list[str]: ...


class Weights(Protocol):
    """Says how many machines that are not the owner's hold a model's weights or have not confirmed that they deleted
    them, and which were told to delete them: since then, or whenever (None: only that) and have not confirmed it; the
    fleet answers."""

    async def __call__(
        self, session: AsyncSession, model: ModelRow, *, since: int | None
    ) -> tuple[int, list[WeightsDeletion]]: ...


@dataclass(frozen=True)
class EndpointPolicy:
    """What decides beside the rows: the platform's tiers and whether endpoints promote; and what the fleet knows."""

    tiers: TierRegistry
    promotion: bool
    capacity: Capacity
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class EndpointsPlatform(SharingPlatform):
    endpoint_policy: EndpointPolicy
