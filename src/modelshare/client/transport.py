"""HTTP for both clients: attempts, the pauses between them, and the final response or exception."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, Final

import httpx
from pydantic import ValidationError
from socksio import SOCKSError

import modelshare
from modelshare.client import errors, network_errors
from modelshare.client.call import Answer, Call, Item, Paged, next_page
from modelshare.client.config import Config
from modelshare.client.errors import ConnectError, ModelshareError, UnexpectedAnswerError
from modelshare.client.retry import Attempt, Outcome, pause
from modelshare.client.route import ByEnvironment, Route, route_to

TIMEOUT: Final = httpx.Timeout(60, connect=5)
USER_AGENT: Final = f"modelshare/{modelshare.__version__}"
_BUSY: Final = frozenset({429, 503})
_BEHIND_A_PROXY: Final = frozenset({502, 504})
"""A proxy's statuses if the server behind it did not respond: the request may or may not have been processed."""

NoAnswer = (httpx.RequestError, SOCKSError)
"""The exceptions of httpx for a missing response; it does not wrap errors of a SOCKS proxy."""
Result = httpx.Response | httpx.RequestError | SOCKSError


class HttpTransport:
    """Sends calls and returns the parsed responses.

    `trust_env=False`: proxies and certificates come from `Route`, whose errors name the invalid variable.
    """

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        """`transport` replaces the network, for example by an application in the same process."""
        self.config = config
        self.route = route_to(config.url, os.environ)
        self._http = httpx.Client(
            base_url=config.url,
            headers=default_headers(config),
            timeout=TIMEOUT,
            transport=transport,
            verify=self.route.verify(),
            proxy=self.route.httpx_proxy(),
            trust_env=False,
        )

    def send(self, call: Call[Answer]) -> Answer:
        for number in count(1):
            result = self._attempt(call)
            wait = pause(_attempt(call, result, number))
            if wait is None:
                break
            time.sleep(wait)
        return _answer(call, result, self.route)

    def walk(self, call: Call[Paged[Item]]) -> Iterator[Item]:
        while True:
            page = self.send(call)
            yield from page.data
            if page.next_cursor is None:
                return
            call = next_page(call, page.next_cursor)

    def put(self, path: str, body: Iterator[bytes], headers: Mapping[str, str]) -> httpx.Response:
        """Sends a streamed body once; its length must be in `headers`. Raises NoAnswer."""
        return self._http.put(path, content=body, headers=headers)

    def stream(self, url: str, body: dict[str, Any]) -> AbstractContextManager[httpx.Response]:
        """POSTs JSON and streams the response. Raises NoAnswer."""
        return self._http.stream("POST", url, json=body, timeout=httpx.Timeout(3600, connect=5))

    def close(self) -> None:
        self._http.close()

    def _attempt(self, call: Call[Answer]) -> Result:
        try:
            return self._http.request(
                call.method, call.path, params=call.params(), content=call.content(), headers=_headers(call)
            )
        except NoAnswer as error:
            return error


class AsyncHttpTransport:
    """Like HttpTransport, for asyncio."""

    def __init__(self, config: Config, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.config = config
        self.route = route_to(config.url, os.environ)
        self._http = httpx.AsyncClient(
            base_url=config.url,
            headers=default_headers(config),
            timeout=TIMEOUT,
            transport=transport,
            verify=self.route.verify(),
            proxy=self.route.httpx_proxy(),
            trust_env=False,
        )

    async def send(self, call: Call[Answer]) -> Answer:
        for number in count(1):
            result = await self._attempt(call)
            wait = pause(_attempt(call, result, number))
            if wait is None:
                break
            await asyncio.sleep(wait)
        return _answer(call, result, self.route)

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
        except NoAnswer as error:
            return error


def default_headers(config: Config) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT}
    if config.api_key is not None:
        headers["Authorization"] = f"Bearer {config.api_key}"
    return headers


def bucket_client() -> httpx.Client:
    """A separate client for presigned URLs, since a bucket must never receive the platform's key."""
    transport = ByEnvironment(os.environ)
    return httpx.Client(timeout=TIMEOUT, transport=transport, trust_env=False)


def cannot_reach(url: str, error: Exception) -> ConnectError:
    """The exception for a connection that failed or broke."""
    return network_errors.of_connection(route_to(url, os.environ), error)


def cannot_reach_bucket(error: Exception) -> ConnectError:
    """Like `cannot_reach` for a presigned URL. Only its host is shown, since the rest is a credential."""
    where = "the storage bucket"
    if isinstance(error, httpx.RequestError):
        where = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    return network_errors.of_connection(route_to(where, os.environ), error, listener="the storage bucket")


def refusal(url: str, answer: httpx.Response, *, sent: int = 0) -> ModelshareError:
    """The exception for an error response. `sent`: bytes of the request body."""
    return _refusal(route_to(url, os.environ), answer, sent=sent)


def not_ours(url: str) -> UnexpectedAnswerError:
    """The exception for a success response that is not from the platform, such as a captive portal's page."""
    return network_errors.of_success(route_to(url, os.environ))


def is_json(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("content-type", "").partition(";")[0].strip() == "application/json")


def _refusal(route: Route, answer: httpx.Response, *, sent: int = 0) -> ModelshareError:
    error = errors.from_answer(answer.status_code, answer.headers, answer.content)
    if not isinstance(error, UnexpectedAnswerError):
        return error
    return network_errors.of_answer(route, answer.status_code, answer.headers, sent=sent) or error


def outcome_of(error: httpx.RequestError | SOCKSError) -> Outcome:
    """Whether the request may have reached the server."""
    unsent = isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError | SOCKSError
    )
    return Outcome.NOT_SENT if unsent else Outcome.LOST


def _headers(call: Call[Answer]) -> dict[str, str]:
    return {} if call.body is None else {"Content-Type": "application/json"}


def _attempt(call: Call[Answer], result: Result, number: int) -> Attempt:
    if isinstance(result, NoAnswer):
        return Attempt(number, outcome_of(result), call.repeatable)
    outcome = Outcome.BUSY if result.status_code in _BUSY else Outcome.ANSWERED
    if result.status_code in _BEHIND_A_PROXY:
        outcome = Outcome.LOST
    return Attempt(number, outcome, call.repeatable, errors.parse_retry_after(result.headers.get("retry-after")))


def _answer(call: Call[Answer], result: Result, route: Route) -> Answer:
    if isinstance(result, NoAnswer):
        raise network_errors.of_connection(route, result) from result
    if not result.is_success:
        raise _refusal(route, result, sent=len(call.content() or b""))
    try:
        return call.parse(result.content)
    except ValidationError as error:
        if not is_json(result):
            raise network_errors.of_success(route) from error
        raise UnexpectedAnswerError(
            f"{route.url} answered {call.method} {call.path} in a form unknown to this client "
            f"({modelshare.__version__}). Check that it is a modelshare server of a matching version."
        ) from error
