"""Ranged requests of the client, with httpx."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from modelshare.client.route import AsyncByEnvironment
from modelshare.client.transport import USER_AGENT, NoAnswer
from modelshare.transfer.ranges import InterruptedTransferError, RangeBody, UnusableAnswerError, headers, position

_TIMEOUT: Final = httpx.Timeout(20, pool=None)
"""Seconds without any data."""


def storage_client() -> httpx.AsyncClient:
    """A separate client for signed URLs, since a storage must never receive the platform's key."""
    transport = AsyncByEnvironment(os.environ)
    return httpx.AsyncClient(headers={"User-Agent": USER_AGENT}, timeout=_TIMEOUT, transport=transport, trust_env=False)


@dataclass(frozen=True, slots=True)
class RangeRequests:
    """A `transfer.ranges.OpenRange`."""

    http: httpx.AsyncClient

    @asynccontextmanager
    async def __call__(self, url: str, start: int, end: int, size: int) -> AsyncIterator[RangeBody]:
        with _translated(url):
            request = self.http.build_request("GET", url, headers=headers(start, end))
            answer = await self.http.send(request, stream=True)
        try:
            first, last = position(answer.status_code, answer.headers, start, end, size)
            yield RangeBody(first, last, _chunks(answer, url))
        finally:
            await answer.aclose()


async def _chunks(answer: httpx.Response, url: str) -> AsyncGenerator[bytes]:
    with _translated(url):
        async for chunk in answer.aiter_raw():
            yield chunk


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Describes errors without the signed URL."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise InterruptedTransferError(f"no connection to {urlsplit(url).netloc}") from error
    except httpx.TimeoutException as error:
        raise InterruptedTransferError(f"no data for {_TIMEOUT.read:g} s") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UnusableAnswerError("the signed URL is not a valid URL") from error
    except NoAnswer as error:
        raise InterruptedTransferError("the connection was cut") from error
