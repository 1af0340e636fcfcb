"""Which change of an endpoint counts as a new selection of its model. Pure."""

from dataclasses import dataclass

from modelshare.server.sharing.rules import is_shared_tier


@dataclass(frozen=True, slots=True)
class Intent:
    """What the deployer wants of an endpoint."""

    tier: str
    is_active: bool


def counts_as_new(before: Intent | None, after: Intent) -> bool:
    """True for a new endpoint, one moved to another tier, and a deactivated one switched on again."""
    return before is None or before.tier != after.tier or (after.is_active and not before.is_active)


def came_to_shared_tier(before: Intent | None, after: Intent) -> bool:
    """True when the change makes an active endpoint on a shared tier out of none, or moves one there."""
    return after.is_active and is_shared_tier(after.tier) and counts_as_new(before, after)
