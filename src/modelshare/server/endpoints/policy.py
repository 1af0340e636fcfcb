"""What endpoints need besides the database: tiers, a setting, and information from the fleet."""

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.http import Caller
from modelshare.server.registry.tables import ModelRow
from modelshare.server.sharing.tiers import SharingPlatform, TierRegistry
from modelshare.wire.sharing import WeightsDeletion
from modelshare.wire.tiers import Tier


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
    """The platform's tiers, whether endpoints promote models, and the interface to the fleet."""

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
