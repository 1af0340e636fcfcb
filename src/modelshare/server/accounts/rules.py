"""When a key's value is good. Pure."""

import ipaddress
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from modelshare.wire.keys import Scope

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


def may_hand_out(own: AbstractSet[Scope], wanted: AbstractSet[Scope]) -> bool:
    """A key hands out no more than it may do itself; an empty set means every scope."""
    return not own or bool(wanted and wanted <= own)


def hint(secret: str) -> str:
    """Enough of a value to tell keys apart: `ms_acme_Ab12…wxyz`."""
    head, random = secret[:-RANDOM_LENGTH], secret[-RANDOM_LENGTH:]
    return f"{head}{random[:4]}…{random[-4:]}"
