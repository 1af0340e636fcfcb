"""Ranged requests of the agent, with aiohttp."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp

from modelshare.transfer.ranges import (
    LONGEST_ERROR,
    InterruptedTransferError,
    RangeBody,
    UnusableAnswerError,
    check_owner,
    headers,
    position,
)

_READ_AHEAD: Final = 1 << 20
"""Bytes buffered per connection while earlier ones are written."""


@dataclass(frozen=True, slots=True)
class RangeRequests:
    """A `transfer.ranges.OpenRange`."""

    http: aiohttp.ClientSession
    stall_seconds: float
    """A connection that receives nothing for this long is closed."""
    certificate: aiohttp.Fingerprint | bool = True
    """The one that the server has to present; True: any that is valid for its name."""
    follow_redirects: bool = True
    connect_seconds: float | None = None
    """How long opening a connection may take; None: `stall_seconds`."""

    @asynccontextmanager
    async def __call__(self, url: str, start: int, end: int, size: int) -> AsyncIterator[RangeBody]:
        seconds = self.stall_seconds
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.connect_seconds or seconds, sock_read=seconds)
        with self._translated():
            answer = await self.http.get(
                url,
                headers=headers(start, end),
                timeout=timeout,
                read_bufsize=_READ_AHEAD,
                ssl=self.certificate,
                allow_redirects=self.follow_redirects,
            )
        async with answer:
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                with self._translated():
                    body = await answer.content.read(LONGEST_ERROR)
                check_owner(answer.headers, body)
            first, last = position(answer.status, answer.headers, start, end, size)
            yield RangeBody(first, last, self._chunks(answer.content))

    async def _chunks(self, content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
        with self._translated():
            async for chunk in content.iter_any():
                yield chunk

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise InterruptedTransferError(f"no data for {self.stall_seconds:g} s") from error
        except aiohttp.InvalidURL as error:
            raise UnusableAnswerError("the signed URL is not a valid URL") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise InterruptedTransferError(_without_url(error)) from error


def _without_url(error: Exception) -> str:
    """Describes an error without the signed URL that aiohttp includes in its messages."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection to {error.host}:{error.port}"
    return "the connection was cut"
