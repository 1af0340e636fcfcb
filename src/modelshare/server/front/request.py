"""Converts the headers of a request to an ASGI scope (ASGI 2.3). Pure."""

import re
from collections.abc import MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import httptools

from modelshare.server.addresses import forwarded
from modelshare.server.front import refusals
from modelshare.server.front.exchange import PATHSEND
from modelshare.wire.link import LINK_PATH

Headers = Sequence[tuple[bytes, bytes]]
"""Names are in lower case."""
PEER_LINKS: Final = "/internal/v1/links/"
"""Beginning of the path of WebSockets between processes."""
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")
_PLAIN_PATH: Final = re.compile(rb"(?:/[A-Za-z0-9._~-]+)+")
"""Most targets: nothing in them needs to be parsed or decoded."""
_SEPARATORS: Final = len(": \r\n")


def read(version: str, method: bytes, target: bytes, headers: Headers) -> dict[str, Any]:
    """The request's scope. Raises ApiError for invalid requests that the parser accepts."""
    size, hosts, encodings = len(target), [], []
    for name, value in headers:
        size += len(name) + len(value) + _SEPARATORS
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            encodings.append(value)
    if size > refusals.MAX_HEAD:
        raise refusals.head_too_large()
    if version not in _VERSIONS:
        raise refusals.malformed(f"this server does not support HTTP/{version}")
    if method == b"CONNECT":
        raise refusals.malformed("this server is not a proxy")
    if encodings and (version != "1.1" or any(value.strip().lower() != b"chunked" for value in encodings)):
        raise refusals.malformed("its `Transfer-Encoding` may only be `chunked`, in HTTP/1.1")
    if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
        raise refusals.malformed("it needs one `Host` header with the name or address of the platform")
    raw_path, query = (target, b"") if _PLAIN_PATH.fullmatch(target) else _parsed(target, hosts)
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method.decode("ascii"),
        "scheme": "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "extensions": {PATHSEND: {}},
    }


def _parsed(target: bytes, hosts: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The path, in ASCII, and the query."""
    try:
        url = httptools.parse_url(target)
        path: bytes = url.path or b"/"
        path.decode("ascii")
    except (httptools.HttpParserError, UnicodeDecodeError) as error:
        raise refusals.malformed("its URL is invalid; percent-encode all characters outside ASCII") from error
    if not path.startswith(b"/"):
        raise refusals.malformed("it has no path")
    if target[:1] != b"/" and not _names_host(target, hosts):
        raise refusals.malformed("its URL is not one of the host that its `Host` header names")
    return path, url.query or b""


def _names_host(url: bytes, hosts: Sequence[bytes]) -> bool:
    """Whether a whole URL names the same host as the header, so that nobody takes it for one of another (RFC 9112
    section 3.2.2)."""
    scheme, _, rest = url.partition(b"://")
    host = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    return scheme.lower() in {b"http", b"https"} and all(each.lower() == host.lower() for each in hosts)


def forwarded_for(headers: Headers) -> str:
    """The client address that the proxy names; "" for none."""
    return forwarded([value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"])


def expects(headers: Headers) -> bool:
    """Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section 10.1.1)."""
    for name, value in headers:  # noqa: SIM110 - for every request: a generator takes more than twice as long
        if name == b"expect" and value.lower() == b"100-continue":
            return True
    return False


def asks_for_link(scope: MutableMapping[str, Any]) -> bool:
    """Whether this is the handshake of a WebSocket of an agent or of another process (RFC 6455 section 4.2.1)."""
    headers = dict(scope["headers"])
    return (
        (scope["path"] == LINK_PATH or scope["path"].startswith(PEER_LINKS))
        and scope["method"] == "GET"
        and scope["http_version"] == "1.1"
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and headers.get(b"sec-websocket-version") == b"13"
        and b"sec-websocket-key" in headers
        and not {b"content-length", b"transfer-encoding"} & headers.keys()
    )
