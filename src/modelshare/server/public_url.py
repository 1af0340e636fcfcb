"""The URL of the platform for links, where `public_url` is not set.

`Host` is chosen by the client, so it is used only if it is an address of this machine or a loopback name. Any other
name could belong to an attacker (DNS rebinding, poisoned caches). Behind a host name or a proxy, `public_url` has to
be set.
"""

import functools
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request

log = structlog.get_logger()
_DOCUMENTATION_ADDRESSES: Final = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))
"""RFC 5737 and RFC 3849. Nothing is sent to them, but the system selects the interface that it would use."""
_MAX_LOGGED: Final = 300
"""Characters of a host name that are logged."""


def url_of(request: Request) -> str:
    """Scheme, host and port of the platform as this client may use them."""
    bound, port = request.scope.get("server") or ("", None)
    given = request.headers.get("host", "")
    if is_own(hostname(given), bound):
        return f"{request.url.scheme}://{given}"
    if given:
        _warn(given[:_MAX_LOGGED])
    address = bound if bound and not _is_unspecified(bound) else _outward_address()
    name = f"[{address}]" if ":" in address else address
    return f"{request.url.scheme}://{name}:{port}" if port else f"{request.url.scheme}://{name}"


def hostname(given: str) -> str:
    """The host of a `Host` header, in lower case and without its port; "" for an invalid one."""
    try:
        parts = urlsplit(f"//{given}")
        plain = parts.netloc == given and "@" not in given and (parts.port is None or parts.port > 0)
    except ValueError:
        return ""
    return (parts.hostname or "") if plain and given.isascii() and given.isprintable() else ""


def is_own(host: str, bound: str) -> bool:
    """Whether the host is the bound one, a loopback name, or an address of this machine."""
    if not host:
        return False
    return host == bound.lower() or host == "localhost" or host.endswith(".localhost") or is_own_address(host)


def is_own_address(text: str) -> bool:
    """Whether it is an address of this machine. False for anything that is not an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast:
        return False
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:  # noqa: PLR2004 - IPv6
        try:
            probe.bind((text, 0))
        except OSError:
            return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a server that listens there is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_unspecified(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _outward_address() -> str:
    """The address of the interface to the network; loopback if there is none."""
    for address, family in _DOCUMENTATION_ADDRESSES:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
            except OSError:
                continue
    return "127.0.0.1"


@functools.lru_cache(maxsize=16)
def _warn(given: str) -> None:
    """Once per name, for the most recent names."""
    log.warning(
        "clients use an address that is not configured: set public_url, or links contain the wrong address",
        host=given,
    )
