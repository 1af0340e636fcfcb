"""Which changes of an endpoint count as a new selection of its model. Pure."""

from dataclasses import dataclass

from modelshare.server.sharing.rules import is_shared_tier


@dataclass(frozen=True, slots=True)
class Intent:
    """The state of an endpoint that the deployer wants."""

    tier: str
    is_active: bool


def counts_as_new(before: Intent | None, after: Intent) -> bool:
    """True for a new endpoint, one moved to another tier, and a deactivated one that is activated again."""
    return before is None or before.tier != after.tier or (after.is_active and not before.is_active)


def came_to_shared_tier(before: Intent | None, after: Intent) -> bool:
    """True if the change creates or activates an endpoint on a shared tier, or moves one there."""
    return after.is_active and is_shared_tier(after.tier) and counts_as_new(before, after)
