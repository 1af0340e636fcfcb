"""Where a pull fetches its files: from agents of its project on the same network, from the owner's machine, or by the
URLs of the grant, in this order."""

import asyncio
import logging
import socket
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final

import aiohttp

from modelshare.agent.range_request import RangeRequests
from modelshare.transfer.ranges import (
    InterruptedTransferError,
    OpenRange,
    OwnerAwayError,
    RangeBody,
    SourceFailedError,
    UnusableAnswerError,
    UrlRejectedError,
)
from modelshare.transfer.signed_urls import SignedUrls
from modelshare.wire.agents import DirectSource, Grant
from modelshare.wire.direct import GrantRequest, WrongBytes, link
from modelshare.wire.public_addresses import is_public

_log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
Grants = Callable[[], Awaitable[Grant]]
"""Requests a new grant from the server; its errors end the pull."""

_CONNECT_SECONDS: Final = 5.0
_STALL_SECONDS: Final = 20.0
_PATIENCE_SECONDS: Final = 75.0
"""How long another agent may have nothing new. One that waits for the owner's machine asks again within a minute."""
_PAUSE_SECONDS: Final = 0.2
_REPORTS: Final = 16
"""Reports of wrong bytes that one request takes, and agents that one report names."""
_FAILURES: Final = 2
"""In a row without a byte; then a source is not used any more by this pull. Requests that ran together count once."""
_SLOWEST: Final = 100_000
"""Bytes a second that another agent has to send of what it has, on average over `_SLOW_SECONDS`."""
_SLOW_SECONDS: Final = 10.0
_FRESH_SECONDS: Final = 10.0
"""A link of a grant that is older may have expired."""
_REFRESHES: Final = 3
"""New grants to ask for when no agent of the project is left, before the owner is asked: one that died is then not
among them any more, and another one fetches from the owner."""
_REFRESH_SECONDS: Final = 1.0


class DirectReader:
    """The agent's own connections to other agents. They do not use a proxy, since the address is checked here."""

    def __init__(self, allowed: Sequence[Network], *, pause: float = 1.0) -> None:
        """`allowed`: networks to connect to, besides public addresses. `pause`: factor for waits between attempts."""
        self.pause = pause
        self._allowed = allowed
        self._wrong: deque[WrongBytes] = deque(maxlen=_REPORTS)
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    def requests(self, fingerprint: str) -> RangeRequests:
        if self._http is None:
            connector = aiohttp.TCPConnector(socket_factory=self._socket)
            self._http = aiohttp.ClientSession(connector=connector)
        certificate = aiohttp.Fingerprint(bytes.fromhex(fingerprint))
        return RangeRequests(
            self._http, _STALL_SECONDS, certificate, follow_redirects=False, connect_seconds=_CONNECT_SECONDS
        )

    def report(self, sha256: str, agents: Sequence[str]) -> None:
        """Has the server be told with the next request for a grant."""
        _log.warning("Wrong bytes of file %s came from agent %s.", sha256, " or ".join(agents))
        self._wrong.append(WrongBytes(sha256=sha256, agents=list(agents[:_REPORTS])))

    @asynccontextmanager
    async def request(self) -> AsyncIterator[GrantRequest | None]:
        """For the next grant: what was reported since the last one. If that fails, it is for the one after it."""
        told = list(self._wrong)
        self._wrong.clear()
        try:
            yield GrantRequest(wrong_bytes=told) if told else None
        except BaseException:
            self._wrong.extendleft(reversed(told))
            raise

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """For the address about to be connected to: whatever a name leads to is checked."""
        family, kind, protocol, _, address = info
        if not is_public(address[0]) and not any(ip_address(address[0]) in network for network in self._allowed):
            raise OSError(f"{address[0]} is not public. --allow-direct allows other networks.")
        return socket.socket(family, kind, protocol)


class Sources(SignedUrls):
    """The sources of one pull. One that fails is not used any more; a file with wrong bytes is fetched by its URL."""

    def __init__(self, grants: Grants, direct: DirectReader) -> None:
        async def remembered() -> Grant:
            grant = await grants()
            self._take(grant)
            return grant

        super().__init__(remembered)
        self._direct = direct
        self._clock = asyncio.get_running_loop().time
        self._sources: list[DirectSource] = []
        self._index: dict[str, int] = {}
        self._digests: dict[str, str] = {}
        self._expires_at = 0
        self._taken_at = 0.0
        self._refreshes = _REFRESHES
        self._lost: set[str] = set()
        """Ids of agents."""
        self._missing: set[tuple[str, str]] = set()
        """An agent and the path of a file that it does not have."""
        self._by_url_only: set[str] = set()
        self._handed_out: dict[str, tuple[DirectSource, str]] = {}
        self._used: defaultdict[str, set[str]] = defaultdict(set)
        self._failures: Counter[str] = Counter()
        self._failed_at: dict[str, float] = {}
        self._progress: dict[str, float] = {}

    async def get(self, path: str) -> str:
        url = await super().get(path)
        if path in self._by_url_only:
            return url
        while (source := self._best(path)) is None or source.is_owner:
            if not self._peers() or self._refreshes <= 0:
                break
            await self._refresh(_REFRESH_SECONDS * self._direct.pause)
        if source is None:
            return await super().get(path)
        direct = link(
            source.address,
            sha256=self._digests[path],
            reader=source.reader,
            expires_at=self._expires_at,
            signature=source.signatures[self._index[path]],
        )
        self._handed_out[direct] = (source, path)
        return direct

    def opener(self, url: str) -> OpenRange | None:
        handed_out = self._handed_out.get(url)
        return partial(self._open, *handed_out) if handed_out is not None else None

    async def wrong(self, path: str, sha256: str) -> None:
        self._by_url_only.add(path)
        if agents := sorted(self._used.pop(path, ())):
            self._direct.report(sha256, agents)
            async with self._lock:
                await self._load()

    def _take(self, grant: Grant) -> None:
        self._sources = grant.sources
        self._index = {file.path: index for index, file in enumerate(grant.files)}
        self._digests = {file.path: file.sha256 for file in grant.files}
        self._expires_at, self._taken_at = grant.expires_at, self._clock()

    async def _refresh(self, seconds: float) -> None:
        """Gets a new grant after a wait, unless another request did meanwhile."""
        known = self._taken_at
        async with self._lock:
            if self._taken_at == known:
                self._refreshes -= 1
                await asyncio.sleep(seconds)
                await self._load()

    def _peers(self) -> list[DirectSource]:
        return [source for source in self._sources if not source.is_owner]

    def _best(self, path: str) -> DirectSource | None:
        index = self._index[path]
        for source in self._sources:
            is_signed = index < len(source.signatures) and source.signatures[index]
            if is_signed and source.agent_id not in self._lost and (source.agent_id, path) not in self._missing:
                return source
        return None

    @asynccontextmanager
    async def _open(
        self, source: DirectSource, path: str, url: str, start: int, end: int, size: int
    ) -> AsyncIterator[RangeBody]:
        begun = self._clock()
        if source.agent_id not in self._progress:
            self._progress[source.agent_id] = begun
            who = "the owner's machine" if source.is_owner else f"agent {source.agent_id}"
            _log.info("Fetching files from %s at %s.", who, source.address)
        try:
            async with self._direct.requests(source.fingerprint)(url, start, end, size) as body:
                _check_not_empty(body)
                self._used[path].add(source.agent_id)
                yield RangeBody(body.start, body.end, self._watched(source, body.chunks))
        except OwnerAwayError as away:
            await self._not_now(source, away)
        except UnusableAnswerError as unusable:
            await self._refused(source, path, unusable)
        except (UrlRejectedError, InterruptedTransferError) as interrupted:
            await self._failed(source, begun, interrupted)

    async def _watched(self, source: DirectSource, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        begun, count = self._clock(), 0
        async for chunk in chunks:
            yield chunk
            count += len(chunk)
            now = self._clock()
            self._progress[source.agent_id] = now
            self._failures.pop(source.agent_id, None)
            if (
                not source.is_owner
                and now - begun > _SLOW_SECONDS * self._direct.pause
                and count < _SLOWEST * (now - begun)
            ):
                self._lose(source, "it is too slow")
                raise InterruptedTransferError("it is too slow")

    async def _not_now(self, source: DirectSource, away: OwnerAwayError) -> None:
        """It has none of these bytes yet, or does not serve now: of the owner, the platform says what to do then."""
        waited = self._clock() - self._progress[source.agent_id]
        if source.is_owner or waited > _PATIENCE_SECONDS * self._direct.pause:
            self._lose(source, str(away))
        else:
            await asyncio.sleep(_PAUSE_SECONDS * self._direct.pause)
        raise SourceFailedError(str(away)) from away

    async def _refused(self, source: DirectSource, path: str, unusable: UnusableAnswerError) -> None:
        """It has no such file, or the link has expired."""
        if self._clock() - self._taken_at > _FRESH_SECONDS:
            async with self._lock:
                if self._clock() - self._taken_at > _FRESH_SECONDS:
                    await self._load()
        else:
            self._missing.add((source.agent_id, path))
        raise SourceFailedError(str(unusable)) from unusable

    async def _failed(self, source: DirectSource, begun: float, error: Exception) -> None:
        if begun >= self._failed_at.get(source.agent_id, 0.0):
            self._failures[source.agent_id] += 1
            self._failed_at[source.agent_id] = self._clock()
        if self._failures[source.agent_id] >= _FAILURES:
            self._lose(source, str(error))
        else:
            await asyncio.sleep(_PAUSE_SECONDS * self._direct.pause)
        raise SourceFailedError(str(error)) from error

    def _lose(self, source: DirectSource, why: str) -> None:
        if source.agent_id not in self._lost:
            self._lost.add(source.agent_id)
            _log.info("Fetching no more from agent %s at %s: %s", source.agent_id, source.address, why.rstrip("."))


def _check_not_empty(body: RangeBody) -> None:
    if body.end <= body.start:
        raise UnusableAnswerError("an empty range")
