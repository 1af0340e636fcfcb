"""Chooses a target, and reaches it over a connection of this process or through the process that has it."""

import time
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from modelshare.server.endpoints.policy import PrefixHits
from modelshare.server.fleet.link import AgentLink
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import AnswerStream
from modelshare.server.router.circuits import Circuits
from modelshare.server.router.forward import Forwarder
from modelshare.server.router.prefix_routing import Conversations, conversation_key


class Conversation(NamedTuple):
    """What a request continues or begins."""

    endpoint_id: uuid.UUID
    key: int

    @classmethod
    def of(cls, endpoint_id: uuid.UUID, route: str, body: bytes, session: bytes) -> "Conversation | None":
        """See `conversation_key`."""
        key = conversation_key(endpoint_id.bytes, route, body, session)
        return None if key is None else cls(endpoint_id, key)


def circuit_of(tenant: str, target: Target) -> str:
    """The name of the circuit: requests of one tenant that make an engine fail pause it for no other."""
    return f"{tenant}/{target.deployment_id}"


class TargetSelector:
    def __init__(self, links: AgentLinks, forwarder: Forwarder, hits: PrefixHits) -> None:
        self.circuits = Circuits(time.monotonic)
        self._hits = hits
        self._conversations = Conversations()
        self._links = links
        self._forwarder = forwarder

    def best(
        self,
        targets: Sequence[Target],
        conversation: Conversation | None = None,
        tried: Collection[str] = (),
        tenant: str = "",
    ) -> Target | None:
        """The conversation's machine, or the least busy reachable one, as far as this process knows; with equal load,
        its own connections first. `tried`: deployments that are not to be chosen.

        One whose answers to `tenant` fail is chosen only if there is no other.
        """
        busy = [
            (load, target)
            for target in targets
            if target.deployment_id not in tried and (load := self._load(target)) is not None
        ]
        if self.circuits:
            busy = [each for each in busy if not self.circuits.is_open(circuit_of(tenant, each[1]))] or busy
        if conversation is None or not busy:
            return min(busy, key=lambda pair: pair[0])[1] if busy else None
        home = self._conversations.home(conversation.key)
        ids = [target.deployment_id for _, target in busy]
        members = ids if len(busy) == len(targets) else [target.deployment_id for target in targets]
        chosen = self._conversations.choose(conversation.key, ids, [load for (load, _), _ in busy], members)
        if home is not None:
            self._hits.count(conversation.endpoint_id, is_hit=chosen == home)
        return busy[ids.index(chosen)][1]

    def link(self, target: Target) -> AgentLink | None:
        """The agent's connection, to this process or through another one, if it is open."""
        return self._links.get(target.agent_id) or self._forwarder.link(target)

    async def connect(self, target: Target) -> AgentLink:
        """The agent's connection through another process. Raises StreamBrokenError."""
        return await self._forwarder.connect(target)

    @asynccontextmanager
    async def request(
        self,
        target: Target,
        route: str,
        body: bytes,
        *,
        tenant: str,
        timeout: float,  # noqa: ASYNC109 - the agent's
    ) -> AsyncIterator[AnswerStream]:
        link = self.link(target) or await self.connect(target)
        async with link.request(target.deployment_id, route, body, timeout, tenant) as stream:
            yield stream

    def _load(self, target: Target) -> tuple[int, bool] | None:
        link = self._links.get(target.agent_id)
        if link is not None:
            return link.busy, False
        if not set(target.addresses) - {self._links.address}:
            return None  # its connection ended, but the database has not been updated yet
        link = self._forwarder.link(target)
        return link.busy if link is not None else 0, True
