"""Which addresses and URLs are public: what keeps webhooks and storages of projects out of the platform's network.

The lists are written out instead of using `ipaddress.is_global`, whose meaning differs between Python versions and
which calls some addresses global that lead elsewhere (NAT64, 6to4).
"""

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

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
_URL: Final = re.compile(r"[!-~]+")
_NOT_IN_URLS: Final = frozenset('\\"<>^`{|}')
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")
"""The last part of a host name that is an IPv4 address in any spelling (WHATWG URL)."""
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


def url_refusal(url: str, *, allow_private: bool, example: str, limits: str) -> str | None:
    """Why the server must not send requests to this URL, as far as its text tells; a name's address is checked when a
    connection is opened. `limits`: a sentence that says who may only reach public addresses."""
    if not _URL.fullmatch(url) or _NOT_IN_URLS & set(url):
        return (
            "Write the URL in ASCII without spaces: an international domain name as `xn--…`, other characters as `%XX`."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"Invalid URL. Use one such as {example}."
    if parts.scheme not in ({"http", "https"} if allow_private else {"https"}):
        return f"Use an https:// URL, such as {example}."
    if not parts.hostname or port == 0:
        return f"The URL has no host. Use one such as {example}."
    return _host_refusal(parts.hostname, allow_private=allow_private, limits=limits)


def _host_refusal(host: str, *, allow_private: bool, limits: str) -> str | None:
    if ":" not in host and not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return None
    try:
        address = str(IPv6Address(host) if ":" in host else IPv4Address(host))
    except ValueError:
        return "Write an IP address in its usual form, such as 203.0.113.7."
    return None if allow_private or is_public(address) else not_public(host, limits)


def not_public(host: str, limits: str) -> str:
    """Does not tell where a name leads."""
    return f"`{host}` is not a public address. {limits}"


class NotPublicError(OSError):
    """A connection to an address that is not public."""


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for the address about to be connected to: a `socket_factory` of aiohttp. Raises NotPublicError."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise NotPublicError("not a public address")
    return socket.socket(family, kind, protocol)
