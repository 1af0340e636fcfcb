"""Which addresses and URLs the platform may send requests to, of those that tenants name."""

import re
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from urllib.parse import urlsplit

from modelshare.wire.public_addresses import is_public

_URL: Final = re.compile(r"[!-~]+")
_NOT_IN_URLS: Final = frozenset('\\"<>^`{|}')
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*")
"""The last part of a host name that is an IPv4 address in any spelling (WHATWG URL)."""


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
