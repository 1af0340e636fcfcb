"""Requests to a running engine: is it up, does it answer, how busy is it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import aiohttp
import msgspec

from modelshare.agent.engines.base import MAIN_ROUTE, EngineError, Load, Route, Task
from modelshare.agent.engines.diagnosis import humanize_error
from modelshare.agent.engines.recipe import LoadMetrics

_NETWORK_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError)
_LONGEST: Final = 300
_REFUSED: Final = (400, 422)


class RequestRefusedError(EngineError):
    """The engine rejected the request, but works."""


class Probe:
    """`base_url` is without `/v1`."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self._base_url = base_url
        self._headers = headers
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Use a new connection for each request, since a hanging engine may still serve existing connections.
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
        """Whether `path` answers 200 in time."""
        try:
            async with self.session.get(self._base_url + path, timeout=_total(timeout)) as answer:
                return answer.status == 200  # noqa: PLR2004  HTTP OK
        except _NETWORK_ERRORS:
            return False

    async def answers(self, task: Task, model: str | None, within: float) -> bool:
        """Whether it answers a small real request in time."""
        try:
            await self.ask(task, model, within)
        except EngineError:
            return False
        return True

    async def ask(self, task: Task, model: str | None, timeout: float, fields: Mapping[str, Any] = {}) -> None:  # noqa: ASYNC109 - it is only read
        """Sends a small real request, extended by `fields`.

        Raises EngineError if there is no real answer, and RequestRefusedError if the engine rejects the request.
        """
        route = MAIN_ROUTE.get(task)
        if route is None:
            raise EngineError(
                "The model supports neither chat, text completion nor embeddings, so no engine can serve it."
            )
        body = {**_SMALLEST[route], **({"model": model} if model is not None else {}), **fields}
        try:
            url = self._base_url + route.path
            async with self.session.post(url, json=body, timeout=_total(timeout)) as answer:
                content = await answer.read()
        except _NETWORK_ERRORS as error:
            raise EngineError("The engine does not respond to a test request.") from error
        if answer.status != 200:  # noqa: PLR2004
            said = humanize_error(content[:_LONGEST].decode("utf-8", "replace"))
            kind = RequestRefusedError if answer.status in _REFUSED else EngineError
            raise kind(
                f"The engine answered a test request with status {answer.status}" + (f": {said}" if said else ".")
            )
        if not _is_real(route, content):
            raise EngineError("The engine returned an empty answer to a test request.")

    async def told(self, path: str, timeout: float) -> bytes:  # noqa: ASYNC109
        """The response of `path`; empty if there is none."""
        try:
            async with self.session.get(self._base_url + path, timeout=_total(timeout)) as answer:
                return await answer.read() if answer.status == 200 else b""  # noqa: PLR2004
        except _NETWORK_ERRORS:
            return b""

    async def load(self, metrics: LoadMetrics, timeout: float) -> Load | None:  # noqa: ASYNC109
        """None if the engine does not respond or does not report it."""
        return load_in(await self._metrics(timeout), metrics)

    async def work(self, metrics: LoadMetrics, timeout: float) -> float | None:  # noqa: ASYNC109
        """A total of its work so far. None if the engine does not respond or does not report it."""
        sums = _sums(await self._metrics(timeout), metrics.work)
        return None if not sums else sum(sums)

    async def _metrics(self, timeout: float) -> str:  # noqa: ASYNC109
        try:
            async with self.session.get(self._base_url + "/metrics", timeout=_total(timeout)) as answer:
                return await answer.text()
        except _NETWORK_ERRORS:
            return ""


def load_in(text: str, metrics: LoadMetrics) -> Load | None:
    """Parses the load from Prometheus text."""
    sums = _sums(text, (metrics.running, metrics.waiting))
    return Load(int(sums[0]), int(sums[1])) if sums else None


def _sums(text: str, names: Sequence[str]) -> list[float]:
    """The values of these metrics in Prometheus text, each summed over its labels; empty unless all are present."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in names:
            sums[name] = sums.get(name, 0.0) + float(line.rpartition(" ")[2])
    return [sums[name] for name in names] if len(sums) == len(names) else []


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
