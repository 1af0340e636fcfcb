"""HTTP for both clients: one attempt, the pause before the next, and the answer or the exception."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, Final

import httpx
from pydantic import ValidationError

import modelshare
from modelshare.client import errors
from modelshare.client.call import Answer, Call, Item, Paged, next_page
from modelshare.client.config import Config
from modelshare.client.errors import ConnectError, UnexpectedAnswerError
from modelshare.client.retry import Attempt, Outcome, pause

TIMEOUT: Final = httpx.Timeout(60, connect=5)
USER_AGENT: Final = f"modelshare/{modelshare.__version__}"
_BUSY: Final = frozenset({429, 503})

Result = httpx.Response | httpx.TransportError


class HttpTransport:
    """Sends calls and waits for the answers."""

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        """`transport` replaces the network, such as by an application in the same process."""
        self.config = config
        self._http = httpx.Client(
            base_url=config.url,
            headers=default_headers(config),
            timeout=TIMEOUT,
            transport=transport,
            verify=_uses_tls(config),
        )

    def send(self, call: Call[Answer]) -> Answer:
        for number in count(1):
            result = self._attempt(call)
            wait = pause(_attempt(call, result, number))
            if wait is None:
                break
            time.sleep(wait)
        return _answer(call, result, self.config.url)

    def walk(self, call: Call[Paged[Item]]) -> Iterator[Item]:
        while True:
            page = self.send(call)
            yield from page.data
            if page.next_cursor is None:
                return
            call = next_page(call, page.next_cursor)

    def put(self, path: str, body: Iterator[bytes], headers: Mapping[str, str]) -> httpx.Response:
        """One attempt at sending bytes as they come; `headers` says their length. Raises httpx.TransportError."""
        return self._http.put(path, content=body, headers=headers)

    def stream(self, url: str, body: dict[str, Any]) -> AbstractContextManager[httpx.Response]:
        """POSTs JSON and gives the answer while it comes in. Raises httpx.TransportError."""
        return self._http.stream("POST", url, json=body, timeout=httpx.Timeout(3600, connect=5))

    def close(self) -> None:
        self._http.close()

    def _attempt(self, call: Call[Answer]) -> Result:
        try:
            return self._http.request(
                call.method, call.path, params=call.params(), content=call.content(), headers=_headers(call)
            )
        except httpx.TransportError as error:
            return error


class AsyncHttpTransport:
    """The same for asyncio."""

    def __init__(self, config: Config, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.config = config
        self._http = httpx.AsyncClient(
            base_url=config.url,
            headers=default_headers(config),
            timeout=TIMEOUT,
            transport=transport,
            verify=_uses_tls(config),
        )

    async def send(self, call: Call[Answer]) -> Answer:
        for number in count(1):
            result = await self._attempt(call)
            wait = pause(_attempt(call, result, number))
            if wait is None:
                break
            await asyncio.sleep(wait)
        return _answer(call, result, self.config.url)

    async def walk(self, call: Call[Paged[Item]]) -> AsyncIterator[Item]:
        while True:
            page = await self.send(call)
            for item in page.data:
                yield item
            if page.next_cursor is None:
                return
            call = next_page(call, page.next_cursor)

    async def close(self) -> None:
        await self._http.aclose()

    async def _attempt(self, call: Call[Answer]) -> Result:
        try:
            return await self._http.request(
                call.method, call.path, params=call.params(), content=call.content(), headers=_headers(call)
            )
        except httpx.TransportError as error:
            return error


def default_headers(config: Config) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT}
    if config.api_key is not None:
        headers["Authorization"] = f"Bearer {config.api_key}"
    return headers


def cannot_reach(url: str, error: Exception) -> ConnectError:
    """The exception for a connection that did not come about, or broke."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | ConnectionRefusedError):
        return ConnectError(f"Cannot reach {url}: is `modelshare serve` running there?")
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return ConnectError(f"{url} took too long to answer. Try again in a moment.")
    return ConnectError(f"The connection to {url} broke ({error or type(error).__name__}). Try again.")


def outcome_of(error: httpx.TransportError) -> Outcome:
    """Whether the request may have reached the server."""
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Outcome.NOT_SENT if unsent else Outcome.LOST


def _uses_tls(config: Config) -> bool:
    """Reading the certificates takes longer than most commands; redirects are not followed, so http stays http."""
    return config.url.startswith("https://")


def _headers(call: Call[Answer]) -> dict[str, str]:
    return {} if call.body is None else {"Content-Type": "application/json"}


def _attempt(call: Call[Answer], result: Result, number: int) -> Attempt:
    if isinstance(result, httpx.TransportError):
        return Attempt(number, outcome_of(result), call.repeatable)
    outcome = Outcome.BUSY if result.status_code in _BUSY else Outcome.ANSWERED
    return Attempt(number, outcome, call.repeatable, errors.parse_retry_after(result.headers.get("retry-after")))


def _answer(call: Call[Answer], result: Result, url: str) -> Answer:
    if isinstance(result, httpx.TransportError):
        raise cannot_reach(url, result) from result
    if not result.is_success:
        raise errors.from_answer(result.status_code, result.headers, result.content)
    try:
        return call.parse(result.content)
    except ValidationError as error:
        raise UnexpectedAnswerError(
            f"{url} answered {call.method} {call.path} in a form that this client ({modelshare.__version__}) does not "
            "know. Is it a modelshare server, and one of the same age?"
        ) from error
