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


def tier_signers(tier: Tier) -> str | None:
    """What the tier requires of a version's signature, as `EndpointRow.tier_signers` has it.

    None: nothing. Else the ids of the keys that it allows, with spaces between; none of them: those that each model's
    owner has registered.
    """
    return " ".join(sorted(tier.allowed_signers)) if tier.require_signature else None


@dataclass(frozen=True)
class EndpointPolicy:
    """What decides beside the rows: the platform's tiers and whether endpoints promote; and what the fleet knows."""

    tiers: TierRegistry
    promotion: bool
    capacity: Capacity
    weights: Weights

    def tier_signers(self, slug: str) -> str | None:
        """Of the tier with this slug; see the function of this name."""
        tier = self.tiers.get(slug)
        return tier_signers(tier) if tier else None


@dataclass(frozen=True, kw_only=True)
class EndpointsPlatform(SharingPlatform):
    endpoint_policy: EndpointPolicy
