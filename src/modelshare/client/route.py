"""Selects the proxy and certificates for a URL from the environment.

Variables: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY (lower case has precedence), SSL_CERT_FILE, SSL_CERT_DIR and
SSLKEYLOGFILE. httpx could read them itself, but its exception for an invalid value does not name the variable.
"""

import ipaddress
import ssl
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import certifi
import httpx

from modelshare.client.errors import ConfigError

_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})
_EXAMPLE = "http://proxy.example:3128"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    variable: str
    """The environment variable that it comes from."""
    url: str = field(repr=False)
    """May contain a password."""

    @property
    def printable(self) -> str:
        """Without user name and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, slots=True)
class Route:
    url: str
    proxy: Proxy | None
    authorities: str | None
    """The variable that names the certificate authorities, if any."""
    environ: Mapping[str, str] = field(repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or _PORTS.get(parts.scheme, 0)

    def httpx_proxy(self) -> httpx.Proxy | None:
        if self.proxy is None:
            return None
        context = self._context() if self.proxy.url.startswith("https:") else None
        return httpx.Proxy(self.proxy.url, ssl_context=context)

    def verify(self) -> ssl.SSLContext | bool:
        """False for http: loading certificates takes longer than most commands, and redirects are not followed."""
        return self._context() if self.url.startswith("https:") else False

    def _context(self) -> ssl.SSLContext:
        """Raises ConfigError if a variable names invalid certificates or a key log that cannot be written."""
        named = self.environ.get(self.authorities or "", "")
        folder = self.authorities == "SSL_CERT_DIR"
        if named and folder and not Path(named).is_dir():
            raise ConfigError(f"SSL_CERT_DIR names {named}, which is not a folder. Correct it, or unset it.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if folder:
                context.load_verify_locations(capath=named)
            else:
                context.load_verify_locations(cafile=named or certifi.where())
        except OSError as error:
            why = (
                "contains no certificates" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
            )
            raise ConfigError(
                f"{self.authorities} names {named}, which {why}. Set it to a file of PEM certificates, or unset it."
            ) from error
        if keys := self.environ.get("SSLKEYLOGFILE"):
            try:
                context.keylog_filename = keys
            except OSError as error:
                raise ConfigError(
                    f"SSLKEYLOGFILE names {keys}, which cannot be written ({error.strerror}). Correct it, or unset it."
                ) from error
        return context


def route_to(url: str, environ: Mapping[str, str]) -> Route:
    """Raises ConfigError if a variable's value is not a valid proxy."""
    parts = urlsplit(url)
    authorities = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environ.get(name)), None)
    proxy = None if _bypasses_proxy(parts, environ) else _proxy(parts.scheme, environ)
    return Route(url, proxy, authorities, environ)


class ByEnvironment(httpx.BaseTransport):
    """Chooses the route by each request's URL, for hosts that are not known in advance, such as buckets."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._transports: dict[tuple[str | None, bool], httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        key, route = _by_request(request, self._environ)
        if key not in self._transports:
            made = httpx.HTTPTransport(verify=route.verify(), trust_env=False, proxy=route.httpx_proxy())
            self._transports.setdefault(key, made)
        return self._transports[key].handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


class AsyncByEnvironment(httpx.AsyncBaseTransport):
    """Like ByEnvironment, for asyncio."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._transports: dict[tuple[str | None, bool], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key, route = _by_request(request, self._environ)
        if key not in self._transports:
            self._transports[key] = httpx.AsyncHTTPTransport(
                verify=route.verify(), trust_env=False, proxy=route.httpx_proxy()
            )
        return await self._transports[key].handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _by_request(request: httpx.Request, environ: Mapping[str, str]) -> tuple[tuple[str | None, bool], Route]:
    """The route, and what requests have in common that may share connections."""
    route = route_to(str(request.url), environ)
    return (route.proxy.url if route.proxy else None, route.url.startswith("https:")), route


def _proxy(scheme: str, environ: Mapping[str, str]) -> Proxy | None:
    for variable in _variables(scheme, environ):
        if value := environ.get(variable, "").strip():
            return Proxy(variable, _checked(variable, value))
    if sys.platform in {"win32", "darwin"} and (value := urllib.request.getproxies().get(scheme)):
        return Proxy("this system's settings", _checked("this system's settings", value))
    return None


def _variables(scheme: str, environ: Mapping[str, str]) -> Iterator[str]:
    for each in (scheme, "all"):
        yield f"{each}_proxy"
        # In a CGI program, HTTP_PROXY may be a request header set by the client: https://httpoxy.org.
        if each != "http" or "REQUEST_METHOD" not in environ:
            yield f"{each}_proxy".upper()


def _checked(variable: str, value: str) -> str:
    value = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(value)
        is_valid = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        if is_valid:
            (parts.hostname or "").encode("idna")
            httpx.Proxy(value)
    except (ValueError, httpx.InvalidURL):
        is_valid = False
    if is_valid:
        return value
    printable = value.rpartition("@")[2] if "@" in value else value
    example = _EXAMPLE.replace("http:", "socks5:") if value.startswith("socks") else _EXAMPLE
    raise ConfigError(
        f"{variable} names {printable!r}, which is not a valid proxy address. Set it to one such as {example}, "
        "or unset it."
    )


def _bypasses_proxy(parts: SplitResult, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY matches the host: by name, parent domain, address or network."""
    host = (parts.hostname or "").lower()
    port = parts.port or _PORTS.get(parts.scheme, 0)
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    entries = [entry for entry in listed.lower().replace(",", " ").split() if entry]
    return any(entry == "*" or _matches(entry.rpartition("://")[2], host, port) for entry in entries)


def _matches(entry: str, host: str, port: int) -> bool:
    if (network := _network(entry.strip("[]"))) is not None:
        address = _network(host)
        return address is not None and network.version == address.version and address.network_address in network
    name, _, wanted_port = entry.rpartition(":")
    if name and wanted_port.isdigit():
        return int(wanted_port) == port and _matches(name, host, port)
    domain = entry.removeprefix("*").lstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
