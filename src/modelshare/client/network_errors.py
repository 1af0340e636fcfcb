"""Messages for network problems between this machine and the platform: the cause, and what to do."""

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

import httpx
from socksio import SOCKSError

from modelshare.client.errors import ConnectError, UnexpectedAnswerError
from modelshare.client.route import Proxy, Route
from modelshare.wire.text import plain

_TLS_ALERT = "\\x15\\x03"
"""How h11 represents the first bytes of a TLS alert."""
# X509_V_ERR_..., https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _ADDRESS_MISMATCH = 9, 10, 62, 64
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})
_ASLEEP = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
_LONGEST = 200


def of_connection(route: Route, error: Exception, *, listener: str = "`modelshare serve`") -> ConnectError:
    """For a connection that failed or broke. `listener`: what should be listening at the URL."""
    known = (_of_cause(route, cause) for cause in _causes(error))
    return ConnectError(next(filter(None, known), None) or _of_connection(route, error, listener))


def _of_connection(route: Route, error: Exception, listener: str) -> str:
    via = _via(route)
    what = plain(str(error) or type(error).__name__, _LONGEST).rstrip(".")
    match error:
        case httpx.ProxyError() if route.proxy:
            return _refused_by_proxy(route, route.proxy, what)
        case httpx.ConnectTimeout():
            whom = (
                f"the proxy {route.proxy.printable}, which {route.proxy.variable} names," if route.proxy else route.url
            )
            return f"Cannot reach {whom} within a few seconds. Check the address, and any firewall or VPN in between."
        case httpx.ConnectError() | ConnectionRefusedError() if not route.proxy:
            check = f" ({what}). Check this machine's network, and any firewall or VPN in between."
            return f"Cannot reach {route.url}" + (f": is {listener} running there?" if _was_refused(error) else check)
        case httpx.TimeoutException() | TimeoutError():
            return f"{route.url}{via} took too long to answer. Try again in a moment."
        case httpx.DecodingError():
            return (
                f"The response of {route.url}{via} cannot be decompressed ({what}). A proxy may have changed "
                "it; try again."
            )
    plain_http = route.url.startswith("http:") and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
    hint = " If that port uses TLS, use an https:// URL." if plain_http else ""
    return f"The connection to {route.url}{via} broke ({what}). Try again.{hint}"


def of_answer(route: Route, status: int, headers: Mapping[str, str], *, sent: int = 0) -> UnexpectedAnswerError | None:
    """For an error response from something other than modelshare, such as a proxy; None if the cause is unknown.

    `sent`: bytes of the request body.
    """
    via = _via(route)
    if 300 <= status < 400 and (location := headers.get("location")):  # noqa: PLR2004 - redirects
        return UnexpectedAnswerError(_of_redirect(route, plain(urljoin(route.url + "/", location), _LONGEST)))
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return UnexpectedAnswerError(_wants_password(route.proxy))
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        size = f" of {sent:,} bytes" if sent else ""
        return UnexpectedAnswerError(
            f"A proxy in front of {route.url}{via} rejected a request body{size} as too large (413). Ask its "
            "operator to raise the limit above the size of a part (nginx: `client_max_body_size`; Apache: "
            "`LimitRequestBody`)."
        )
    if status in _ASLEEP:
        return UnexpectedAnswerError(
            f"A proxy in front of {route.url}{via} answered {status} {HTTPStatus(status).phrase}: the server "
            "behind it is not responding. Try again in a moment; if the problem persists, contact the "
            "platform's operator."
        )
    return None


def of_success(route: Route) -> UnexpectedAnswerError:
    """For a success response that is not from modelshare."""
    return UnexpectedAnswerError(
        f"{route.url}{_via(route)} returned a response that is not from modelshare, such as the sign-in page of "
        "a network or proxy. Open the URL in a browser, and check that it is the platform's."
    )


def _of_cause(route: Route, cause: BaseException) -> str | None:  # noqa: PLR0911 - one for each
    """A specific message for a low-level exception; None if there is none."""
    match cause:
        case socket.gaierror():
            return _of_name(route, cause)
        case ssl.SSLCertVerificationError():
            return _of_certificate(route, cause)
        case ssl.SSLError():
            return _of_tls(route, cause)
        case ConnectionRefusedError() if route.proxy:
            return f"Cannot reach {_proxy(route.proxy)}: connection refused. {_without(route, route.proxy)}."
        case OSError() if cause.errno in _NO_WAY:
            whom = _proxy(route.proxy) if route.proxy else route.url
            return f"No route from this machine to {whom}. Check the network and the address."
        case httpx.RemoteProtocolError() if _TLS_ALERT in str(cause):
            secure = route.url.replace("http:", "https:", 1)
            return f"{route.host}:{route.port} uses TLS. Use the URL {secure}."
        case SOCKSError() if route.proxy:
            return f"Cannot use {_proxy(route.proxy)}: it is not a SOCKS proxy. {_without(route, route.proxy)}."
    return None


def _of_name(route: Route, error: socket.gaierror) -> str:
    name = route.proxy.host if route.proxy else route.host
    if error.errno == socket.EAI_AGAIN:
        return f"Cannot resolve the name {name} at the moment. Check this machine's network and DNS, and try again."
    if route.proxy:
        variable = route.proxy.variable
        return f"Unknown host {name}, which {variable} names as the proxy. {_without(route, route.proxy)}."
    return f"Unknown host {name}. Check the URL {route.url}."


def _proxy(proxy: Proxy) -> str:
    return f"the proxy {proxy.printable}, which {proxy.variable} names"


def _without(route: Route, proxy: Proxy) -> str:
    return f"Correct {proxy.variable}, or set NO_PROXY={route.host} to connect without a proxy"


def _of_certificate(route: Route, error: ssl.SSLCertVerificationError) -> str:
    whose = f"The certificate of {route.host}"
    code = error.verify_code
    if code in _UNKNOWN_AUTHORITY:
        if route.authorities:
            named = route.environ.get(route.authorities)
            return (
                f"{whose} is issued by an authority that is not in {named}, which {route.authorities} names. "
                "Add the authority's certificate there, or unset the variable."
            )
        return (
            f"{whose} is not issued by an authority that this machine trusts. If this is expected, such as with "
            "a company proxy, set SSL_CERT_FILE to a file that contains the authority's certificate."
        )
    if code in {_HOST_MISMATCH, _ADDRESS_MISMATCH}:
        return f"{whose} is issued for another name. Use the URL with the name in the certificate."
    if code in {_EXPIRED, _NOT_YET_VALID}:
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return f"{whose} {when}. Check this machine's clock; if it is right, contact the platform's operator."
    return f"{whose} is not accepted ({plain(error.verify_message, _LONGEST)}). Contact the platform's operator."


def _of_tls(route: Route, error: ssl.SSLError) -> str:
    reason = plain(error.reason or str(error), _LONGEST)
    proxy = route.proxy
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}:
        if proxy and proxy.url.startswith("https:"):
            plainly = proxy.printable.replace("https:", "http:", 1)
            return f"The proxy that {proxy.variable} names does not use TLS. Set the variable to {plainly}."
        plainly = route.url.replace("https:", "http:", 1)
        return f"{route.host}:{route.port} does not use TLS. Use the URL {plainly}, or the port that does."
    return (
        f"TLS handshake with {route.host}:{route.port} failed ({reason}). Check for a proxy or firewall in "
        "between; otherwise contact the platform's operator."
    )


def _refused_by_proxy(route: Route, proxy: Proxy, said: str) -> str:
    if said.startswith("407") or "auth" in said.lower():
        return _wants_password(proxy)
    return (
        f"The proxy {proxy.printable}, which {proxy.variable} names, does not connect to {route.host}:{route.port} "
        f"({plain(said, _LONGEST).rstrip('.')}). Ask its operator, or set NO_PROXY={route.host} to connect "
        "without it."
    )


def _wants_password(proxy: Proxy | None) -> str:
    if proxy is None:
        return "A proxy requires a user name and password (407). Put it into HTTPS_PROXY with both."
    scheme, _, rest = proxy.printable.partition("://")
    return (
        f"The proxy {proxy.printable}, which {proxy.variable} names, requires a user name and password. Set "
        f"{proxy.variable} to {scheme}://USER:PASSWORD@{rest}."
    )


def _of_redirect(route: Route, location: str) -> str:
    to, here = urlsplit(location), urlsplit(route.url)
    base = f"{to.scheme}://{to.netloc}" + (here.path if to.path.startswith(here.path) else "")
    if to.netloc and (to.scheme, to.netloc) != (here.scheme, here.netloc):
        return (
            f"{route.url} redirects to {location}. If that is the platform, use the URL {base}; keys are not forwarded."
        )
    return f"{route.url} redirects to {location}, which is not modelshare. Check the URL."


def _via(route: Route) -> str:
    return f" (by the proxy {route.proxy.printable}, which {route.proxy.variable} names)" if route.proxy else ""


def _was_refused(error: BaseException) -> bool:
    """Whether the connection was refused. Also true if no exception says why it failed."""
    told = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    return not told or any(isinstance(cause, ConnectionRefusedError) for cause in told)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, recursively."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        if isinstance(seen, BaseExceptionGroup):  # one exception per address of the host
            for each in seen.exceptions:
                yield from _causes(each)
        seen = seen.__cause__ or seen.__context__
