"""Chooses a target, and reaches it over a connection of this process or through the process that has it."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from modelshare.server.fleet.link import AgentLink
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import AnswerStream
from modelshare.server.router.forward import Forwarder


class TargetSelector:
    def __init__(self, links: AgentLinks, forwarder: Forwarder) -> None:
        self._links = links
        self._forwarder = forwarder
        self._forwarded: Counter[str] = Counter()

    def best(self, targets: Sequence[Target]) -> Target | None:
        """The least busy reachable one, as far as this process knows; with equal load, its own connections first."""
        busy = [(load, target) for target in targets if (load := self._load(target)) is not None]
        return min(busy, key=lambda pair: pair[0])[1] if busy else None

    def link(self, target: Target) -> AgentLink | None:
        """The agent's connection, if it is to this process."""
        return self._links.get(target.agent_id)

    def request(
        self, target: Target, route: str, body: bytes, *, tenant: str, timeout: float
    ) -> AbstractAsyncContextManager[AnswerStream]:
        link = self._links.get(target.agent_id)
        if link is not None:
            return link.request(target.deployment_id, route, body, timeout, tenant)
        return self._forward(target, route, body, tenant, timeout)

    @asynccontextmanager
    async def _forward(
        self,
        target: Target,
        route: str,
        body: bytes,
        tenant: str,
        timeout: float,  # noqa: ASYNC109 - the agent's
    ) -> AsyncIterator[AnswerStream]:
        self._forwarded[target.deployment_id] += 1
        try:
            async with self._forwarder.request(target, route, body, tenant=tenant, timeout=timeout) as stream:
                yield stream
        finally:
            self._forwarded[target.deployment_id] -= 1

    def _load(self, target: Target) -> tuple[int, bool] | None:
        link = self._links.get(target.agent_id)
        if link is not None:
            return link.busy, False
        if target.address in {"", self._links.address}:
            return None  # its connection ended, but the database has not been updated yet
        return self._forwarded[target.deployment_id], True
