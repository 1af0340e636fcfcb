"""Client addresses: from a proxy's header, and grouped for limits. Pure."""

import ipaddress
from collections.abc import Sequence
from typing import Final

_SITE: Final = 64
"""Prefix length of the smallest IPv6 network that a site gets (RFC 6177)."""


def forwarded(headers: Sequence[str]) -> str:
    """The address that the proxy in front added to `X-Forwarded-For`, the last one, without its port; "" for none."""
    last = headers[-1].rsplit(",", 1)[-1].strip() if headers else ""
    if last.startswith("["):
        return last[1:].partition("]")[0]
    host, _, rest = last.partition(":")
    return last if ":" in rest else host


def counted_as(address: str) -> str:
    """The unit of limits per address: for IPv6 the /64 network, all of whose addresses belong to one client."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), _SITE), strict=False))
