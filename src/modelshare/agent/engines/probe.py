"""Questions to a running engine: is it up, does it answer, how busy is it."""

from collections.abc import Mapping
from typing import Any, Final, Self

import aiohttp
import msgspec

from modelshare.agent.engines.base import MAIN_ROUTE, EngineError, Load, Route, Task
from modelshare.agent.engines.recipe import LoadMetrics

_NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError)
_LONGEST: Final = 300


class Probe:
    """`base_url` without `/v1`."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._base_url = base_url
        self._headers = headers
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A connection of its own for each question: an engine that hangs must not be hidden by one that lives on.
        connector = aiohttp.TCPConnector(force_close=True)
        self._http = aiohttp.ClientSession(headers=self._headers, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._http  # noqa: S101  it is used inside `async with`
        return self._http

    async def is_up(self, path: str, timeout: float) -> bool:  # noqa: ASYNC109  aiohttp takes it as it is
        """Does `path` answer 200 in time?"""
        try:
            async with self.session.get(self._base_url + path, timeout=_total(timeout)) as answer:
                return answer.status == 200  # noqa: PLR2004  HTTP OK
        except _NETWORK_ERRORS:
            return False

    async def ask(self, task: Task, model: str | None, timeout: float) -> None:  # noqa: ASYNC109
        """One real, small request. Raises EngineError when there is no real answer."""
        route = MAIN_ROUTE.get(task)
        if route is None:
            raise EngineError("The model can neither chat, nor complete text, nor embed it; no engine serves it.")
        body = _SMALLEST[route] | ({"model": model} if model is not None else {})
        try:
            url = self._base_url + route.path
            async with self.session.post(url, json=body, timeout=_total(timeout)) as answer:
                content = await answer.read()
        except _NETWORK_ERRORS as error:
            raise EngineError("The engine does not answer a first request.") from error
        if answer.status != 200:  # noqa: PLR2004
            said = content[:_LONGEST].decode("utf-8", "replace")
            raise EngineError(f"The engine answers a first request with status {answer.status}: {said}")
        if not _is_real(route, content):
            raise EngineError("The engine answers a first request, but with nothing in it.")

    async def told(self, path: str, timeout: float) -> bytes:  # noqa: ASYNC109
        """What `path` answers; nothing when it does not."""
        try:
            async with self.session.get(self._base_url + path, timeout=_total(timeout)) as answer:
                return await answer.read() if answer.status == 200 else b""  # noqa: PLR2004
        except _NETWORK_ERRORS:
            return b""

    async def load(self, metrics: LoadMetrics, timeout: float) -> Load | None:  # noqa: ASYNC109
        """None when the engine does not answer or does not tell."""
        try:
            async with self.session.get(self._base_url + "/metrics", timeout=_total(timeout)) as answer:
                return load_in(await answer.text(), metrics)
        except _NETWORK_ERRORS:
            return None


def load_in(text: str, metrics: LoadMetrics) -> Load | None:
    """The load in Prometheus text; gauges that come once per label are added up."""
    sums = {metrics.running: 0.0, metrics.waiting: 0.0}
    seen = set()
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
            seen.add(name)
    return Load(int(sums[metrics.running]), int(sums[metrics.waiting])) if len(seen) == len(sums) else None


_SMALLEST: Final[Mapping[Route, dict[str, Any]]] = {
    Route.CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0},
    Route.COMPLETIONS: {"prompt": "Hi", "max_tokens": 1, "temperature": 0},
    Route.EMBEDDINGS: {"input": "Hi"},
}


class _Answer(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    data: list[msgspec.Raw] = []


def _is_real(route: Route, content: bytes) -> bool:
    try:
        answer = msgspec.json.decode(content, type=_Answer)
    except msgspec.DecodeError:
        return False
    return bool(answer.data if route is Route.EMBEDDINGS else answer.choices)


def _total(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)
