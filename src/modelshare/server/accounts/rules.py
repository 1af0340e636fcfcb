"""When a key's value is good. Pure."""

import ipaddress
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from modelshare.wire.keys import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RANDOM_LENGTH = 43
"""Characters of 256 random bits in URL-safe base64."""


def is_valid(*, now: int, expires_at: int | None, revoked_at: int | None, value_expires_at: int | None) -> bool:
    """A value is good until its key is revoked or ends, or until its grace after a rotation is over."""
    return (
        revoked_at is None
        and (expires_at is None or now < expires_at)
        and (value_expires_at is None or now < value_expires_at)
    )


def is_allowed_from(address: str, networks: Iterable[str]) -> bool:
    """True when the list is empty or holds a network that the address is in."""
    allowed = [ipaddress.ip_network(network, strict=False) for network in networks]
    if not allowed:
        return True
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in allowed)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a key goes."""

    scopes: AbstractSet[Scope]
    """Empty means every scope."""
    endpoint: str | None = None
    """The only endpoint it may call."""
    networks: tuple[str, ...] = ()
    """Where it may be used from; empty means everywhere."""
    expires_at: int | None = None


def beyond(own: Reach, wanted: Reach) -> str | None:
    """What keeps a key from handing out another: one sentence, or None when that one goes no further than itself."""
    if not may_hand_out(own.scopes, wanted.scopes):
        scopes = ", ".join(sorted(own.scopes))
        return f"A key can only hand out scopes it has itself: {scopes}. Name some of these in `scopes`."
    if own.endpoint is not None and wanted.endpoint != own.endpoint:
        return f"This key may only call the endpoint `{own.endpoint}`, and so may what it hands out: set `endpoint`."
    if own.networks and not _within(wanted.networks, own.networks):
        networks = ", ".join(own.networks)
        return f"This key may only be used from {networks}, and so may what it hands out: set `allowed_ips`."
    if own.expires_at is not None and (wanted.expires_at is None or wanted.expires_at > own.expires_at):
        return f"This key ends at {own.expires_at} (Unix time), and what it hands out ends no later: set `expires_in`."
    return None


def effective_scopes(scopes: Iterable[str], endpoint: str | None) -> frozenset[Scope]:
    """What a key may do. One locked to an endpoint and given no scopes calls that endpoint, and nothing else."""
    given = frozenset(Scope(scope) for scope in scopes)
    return given or (frozenset({Scope.INFERENCE}) if endpoint else given)


def may_hand_out(own: AbstractSet[Scope], wanted: AbstractSet[Scope]) -> bool:
    """A key hands out no more than it may do itself; an empty set means every scope."""
    return not own or bool(wanted and wanted <= own)


def _within(inner: Iterable[str], outer: Iterable[str]) -> bool:
    """True when each of the inner networks lies in one of the outer ones; no inner ones are the whole internet."""
    within = [ipaddress.ip_network(network, strict=False) for network in inner]
    allowed = [ipaddress.ip_network(network, strict=False) for network in outer]
    return bool(within) and all(any(_lies_in(one, other) for other in allowed) for one in within)


def _lies_in(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def hint(secret: str) -> str:
    """Enough of a value to tell keys apart: `ms_acme_Ab12…wxyz`."""
    head, random = secret[:-RANDOM_LENGTH], secret[-RANDOM_LENGTH:]
    return f"{head}{random[:4]}…{random[-4:]}"
