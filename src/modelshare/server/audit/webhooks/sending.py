"""Sends a delivery: an HTTP request to a tenant's address, which must be public."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from modelshare import __version__
from modelshare.server.audit.webhooks import rules
from modelshare.server.outgoing import aiohttp_module, connection_errors, open_session, why_no_answer
from modelshare.server.public_addresses import public_socket
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
        except connection_errors() as error:
            host = urlsplit(message.url).hostname or ""
            said = why_no_answer(host, error, seconds=self._seconds, limits=rules.LIMITS)
            return Outcome(message.delivery_id, None, said)

    def _session(self) -> "aiohttp.ClientSession":
        if self._http is None:
            self._http = open_session(
                {
                    "force_close": True,
                    "resolver": self._resolver,
                    "socket_factory": None if self._allow_private else public_socket,
                },
                timeout=aiohttp_module().ClientTimeout(total=self._seconds, sock_connect=_CONNECT_SECONDS),
                read_bufsize=_MAX_READ,
            )
        return self._http


async def _complaint(answer: "aiohttp.ClientResponse") -> str | None:
    """Why the response is not a success; None if it is one."""
    if answer.ok and answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if answer.status < HTTPStatus.BAD_REQUEST:
        return f"It answered {answer.status}, a redirect, which is not followed. Set the webhook to the final URL."
    try:
        said = rules.readable(await answer.content.read(_MAX_READ))
    except (aiohttp_module().ClientError, OSError):
        said = ""
    return f"It answered {answer.status}: {said}" if said else f"It answered {answer.status}."
