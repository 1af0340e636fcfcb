"""Sends a delivery: an HTTP request to a tenant's address, which must be public.

Every connection's actual IP address is checked, so that DNS rebinding does not help an attacker.
"""

import importlib
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from modelshare import __version__
from modelshare.server.audit.webhooks import rules
from modelshare.server.public_addresses import NotPublicError, public_socket
from modelshare.wire.webhooks import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, signature

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import AbstractResolver

SECONDS: Final = 10.0
"""Per attempt, from resolving the name to the response."""
_CONNECT_SECONDS: Final = 5.0
_MAX_READ: Final = 400
"""Bytes of a response that are read for the error message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request to send."""

    delivery_id: uuid.UUID
    event_id: uuid.UUID
    body: str
    url: str
    keys: Sequence[bytes]
    """Keys to sign with; several after a rotation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an attempt. `error`: None if it was delivered. `status`: None without a response."""

    delivery_id: uuid.UUID
    status: int | None
    error: str | None

    @property
    def is_gone(self) -> bool:
        """Whether the receiver asked for no further deliveries (410)."""
        return self.status == HTTPStatus.GONE


class Sender:
    """Sends deliveries from this process, each on a new connection: a reused one could be closing, or be unchecked."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        allow_private: bool,
        seconds: float = SECONDS,
        resolver: "AbstractResolver | None" = None,
    ) -> None:
        self._clock = clock
        self._allow_private = allow_private
        self._seconds = seconds
        self._resolver = resolver
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def send(self, message: Message) -> Outcome:
        """Does not raise errors of the address."""
        body, message_id, timestamp = message.body.encode(), str(message.event_id), int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"modelshare-webhooks/{__version__}",
            "Accept-Encoding": "identity",
            ID_HEADER: message_id,
            TIMESTAMP_HEADER: str(timestamp),
            SIGNATURE_HEADER: " ".join(signature(key, message_id, timestamp, body) for key in message.keys),
        }
        refusal = rules.url_refusal(message.url, allow_private=self._allow_private)
        if refusal is not None:  # the setting has changed since
            return Outcome(message.delivery_id, None, refusal)
        try:
            async with self._session().post(message.url, data=body, headers=headers, allow_redirects=False) as answer:
                return Outcome(message.delivery_id, answer.status, await _complaint(answer))
        except (_aiohttp().ClientError, OSError, ValueError, RuntimeError) as error:
            return Outcome(message.delivery_id, None, self._words(urlsplit(message.url).hostname or "", error))

    def _session(self) -> "aiohttp.ClientSession":
        if self._http is None:
            http = _aiohttp()
            self._http = http.ClientSession(
                connector=http.TCPConnector(
                    limit=0,
                    force_close=True,
                    use_dns_cache=False,
                    resolver=self._resolver,
                    socket_factory=None if self._allow_private else public_socket,
                ),
                timeout=http.ClientTimeout(total=self._seconds, sock_connect=_CONNECT_SECONDS),
                cookie_jar=http.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_MAX_READ,
            )
        return self._http

    def _words(self, host: str, error: Exception) -> str:
        """Why there was no response, for the webhook's owner. Does not reveal what the host's name resolves to."""
        http = _aiohttp()
        cause = getattr(error, "os_error", None)
        if isinstance(cause, NotPublicError):
            return rules.not_public(host)
        if isinstance(error, TimeoutError):
            return f"`{host}` did not answer within {self._seconds:g} s."
        if isinstance(error, http.ClientSSLError):
            return f"`{host}` has no trusted TLS certificate. Check its certificate."
        if isinstance(error, http.ClientConnectorDNSError | ValueError):
            return f"The name `{host}` does not resolve to an address."
        if isinstance(error, http.ClientConnectorError):
            why = os.strerror(cause.errno) if cause is not None and cause.errno else "it cannot be reached"
            return f"No connection to `{host}`: {why}."
        return f"`{host}` closed the connection before it answered."


async def _complaint(answer: "aiohttp.ClientResponse") -> str | None:
    """Why the response is not a success; None if it is one."""
    if answer.ok and answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if answer.status < HTTPStatus.BAD_REQUEST:
        return f"It answered {answer.status}, a redirect, which is not followed. Set the webhook to the final URL."
    try:
        said = rules.readable(await answer.content.read(_MAX_READ))
    except (_aiohttp().ClientError, OSError):
        said = ""
    return f"It answered {answer.status}: {said}" if said else f"It answered {answer.status}."


def _aiohttp() -> Any:
    # Imported on first use: it takes a tenth of the startup time.
    return importlib.import_module("aiohttp")
