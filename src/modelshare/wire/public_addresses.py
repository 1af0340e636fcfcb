"""Which addresses are public: what keeps addresses that a tenant names from leading into another's network.

The lists are written out instead of using `ipaddress.is_global`, whose meaning differs between Python versions and
which calls some addresses global that lead elsewhere (NAT64, 6to4).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host, unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # between a provider and its customers; some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a public number, but Azure's own host on every Azure machine
        "169.254.0.0/16",  # link-local; the clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
"""RFC 6890's special-purpose addresses, as IANA's registry has them, and multicast."""
_UNICAST_6: Final = IPv6Network("2000::/3")
"""All that IANA has given out for global use; loopback, local, mapped and multicast addresses are outside."""
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, benchmarking, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 writes IPv4 addresses (RFC 6052)."""


def is_public(address: str) -> bool:
    """Whether this IP address is one of the public internet. False for what is no address at all."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        inner = parsed.ipv4_mapped or (IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _NAT64 else None)
        if inner is None:
            return parsed in _UNICAST_6 and not any(parsed in network for network in _NOT_PUBLIC_6)
        parsed = inner
    return not any(parsed in network for network in _NOT_PUBLIC_4)
