"""Where a request comes from: as a proxy says it, and as limits count it. Pure."""

import ipaddress
from collections.abc import Sequence
from typing import Final

_SITE: Final = 64
"""Bits of an IPv6 address that one connection to the internet has to itself at least (RFC 6177)."""


def forwarded(headers: Sequence[str]) -> str:
    """The address that the proxy in front added to `X-Forwarded-For`, the last one, without its port; "" for none."""
    last = headers[-1].rsplit(",", 1)[-1].strip() if headers else ""
    if last.startswith("["):
        return last[1:].partition("]")[0]
    host, _, rest = last.partition(":")
    return last if ":" in rest else host


def counted_as(address: str) -> str:
    """What limits per address count: of IPv6 the /64, in which whoever has one address has all the others."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip), _SITE), strict=False))
