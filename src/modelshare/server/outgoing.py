"""HTTP requests to addresses that tenants name, from a server inside the platform's network.

Every connection's actual IP address is checked, so that DNS rebinding does not help an attacker.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from modelshare.server.public_addresses import NotPublicError, not_public


def open_session(connector: Mapping[str, Any], **options: Any) -> Any:
    """An aiohttp session without proxies of the environment, cookies and decompression. Redirects are the caller's
    part. `connector` has the `socket_factory` that checks addresses: `public_socket`, or None to allow all."""
    http = aiohttp_module()
    return http.ClientSession(
        connector=http.TCPConnector(limit=0, use_dns_cache=False, **connector),
        cookie_jar=http.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        **options,
    )


def connection_errors() -> tuple[type[Exception], ...]:
    """What requests raise; `why_no_answer` explains it."""
    return aiohttp_module().ClientError, OSError, ValueError, RuntimeError


def why_no_answer(host: str, error: Exception, *, seconds: float, limits: str) -> str:
    """Why there was no response, for the tenant. Does not reveal what the host's name resolves to.

    `limits`: see `public_addresses.url_refusal`.
    """
    http = aiohttp_module()
    cause = getattr(error, "os_error", None)
    if isinstance(cause, NotPublicError):
        return not_public(host, limits)
    if isinstance(error, TimeoutError):
        return f"`{host}` did not answer within {seconds:g} s."
    if isinstance(error, http.ClientSSLError):
        return f"`{host}` has no trusted TLS certificate. Check its certificate."
    if isinstance(error, http.ClientConnectorDNSError | ValueError):
        return f"The name `{host}` does not resolve to an address."
    if isinstance(error, http.ClientConnectorError):
        why = os.strerror(cause.errno) if cause is not None and cause.errno else "it cannot be reached"
        return f"No connection to `{host}`: {why}."
    return f"`{host}` closed the connection before it answered."


def exact_url(url: str) -> Any:
    """For a request; aiohttp would otherwise encode a string again, and a signature covers its spelling."""
    return importlib.import_module("yarl").URL(url, encoded=True)


def aiohttp_module() -> Any:
    # Imported on first use: it takes a tenth of the startup time.
    return importlib.import_module("aiohttp")
