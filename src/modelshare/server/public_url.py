"""How a client reaches the platform, where no setting says it.

Links are made of it, and `Host` is whatever a client writes: it counts where it names this machine by an address. A
name could be anybody's: one that a page of somebody else resolves to this machine for a moment, or one that a cache in
front takes for another site. Behind a name or a proxy, `public_url` has to be set.
"""

import functools
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request

log = structlog.get_logger()
_SOMEWHERE: Final = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))
"""Addresses for documentation (RFC 5737, RFC 3849): nothing is sent, but the system knows by which way it would be."""
_LONGEST: Final = 300
"""Characters of a name, and its port, that are logged."""


def url_of(request: Request) -> str:
    """Scheme, address and port."""
    bound, port = request.scope.get("server") or ("", None)
    given = request.headers.get("host", "")
    if is_own(hostname(given), bound):
        return f"{request.url.scheme}://{given}"
    if given:
        _warn(given[:_LONGEST])
    address = bound if bound and not _is_unspecified(bound) else _outward_address()
    name = f"[{address}]" if ":" in address else address
    return f"{request.url.scheme}://{name}:{port}" if port else f"{request.url.scheme}://{name}"


def hostname(given: str) -> str:
    """The host of a `Host` header, in lower case and without its port; "" for what is no such header."""
    try:
        parts = urlsplit(f"//{given}")
        plain = parts.netloc == given and "@" not in given and (parts.port is None or parts.port > 0)
    except ValueError:
        return ""
    return (parts.hostname or "") if plain and given.isascii() and given.isprintable() else ""


def is_own(host: str, bound: str) -> bool:
    """Whether it names this machine: as the socket does, as loopback, or by an address that is this machine's."""
    if not host:
        return False
    return host == bound.lower() or host == "localhost" or host.endswith(".localhost") or is_own_address(host)


def is_own_address(text: str) -> bool:
    """Whether a socket of this machine can have the address. False for what is none."""
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
    """Whether only this machine reaches a server that listens there."""
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
    """The address by which this machine reaches others, and most likely is reached; loopback for one by itself."""
    for somewhere, family in _SOMEWHERE:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((somewhere, 9))
                return str(probe.getsockname()[0])
            except OSError:
                continue
    return "127.0.0.1"


@functools.lru_cache(maxsize=16)
def _warn(given: str) -> None:
    """Once for each of the last names."""
    log.warning(
        "clients use an address that is not configured: set public_url, or links contain the wrong address",
        host=given,
    )
