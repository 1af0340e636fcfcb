"""Chooses a target, and reaches it over a connection of this process or through the process that has it."""

import time
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from modelshare.server.endpoints.policy import PrefixHits
from modelshare.server.fleet.link import AgentLink
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import AnswerStream
from modelshare.server.router.circuits import Circuits
from modelshare.server.router.forward import Forwarder
from modelshare.server.router.prefix_routing import Conversations, conversation_key

_USUAL_SLOTS: Final = 8
"""Assumed of agents that do not say how many sequences they process at once."""

_RESTING: Final = 10_000


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
        self._resting: dict[str, float] = {}
        """Until when, by deployment."""

    def best(
        self,
        targets: Sequence[Target],
        conversation: Conversation | None = None,
        tried: Collection[str] = (),
        tenant: str = "",
    ) -> Target | None:
        """The conversation's machine, or the reachable one with the least to do for its size, as far as this process
        knows; among equals, its own connections first. `tried`: deployments that are not to be chosen.

        One whose answers to `tenant` fail is chosen only if there is no other, and so is one without a free slot.
        """
        if conversation is None and len(targets) == 1:
            (only,) = targets
            return only if only.deployment_id not in tried and self._is_reachable(only) else None
        found = [
            self._candidate(each) for each in targets if each.deployment_id not in tried and self._is_reachable(each)
        ]
        if self.circuits:
            found = [each for each in found if not self.circuits.is_open(circuit_of(tenant, each.target))] or found
        found = [each for each in found if not each.is_full] or found
        if conversation is None or not found:
            return min(found, key=_load).target if found else None
        home = self._conversations.home(conversation.key)
        ids = [each.target.deployment_id for each in found]
        members = ids if len(found) == len(targets) else [target.deployment_id for target in targets]
        busy, slots = [each.busy for each in found], [each.slots for each in found]
        chosen = self._conversations.choose(conversation.key, ids, busy, members, slots)
        if home is not None:
            self._hits.count(conversation.endpoint_id, is_hit=chosen == home)
        return found[ids.index(chosen)].target

    def is_full(self, target: Target) -> bool:
        """Whether it is known to have no free slot."""
        link = self.link(target)
        is_resting = target.deployment_id in self._resting and self._rests(target.deployment_id)
        return is_resting or (link is not None and link.loads.of(target.deployment_id).is_full)

    def rest(self, target: Target, seconds: float) -> None:
        """It said that it has too much to do: for a while it counts as full."""
        if len(self._resting) >= _RESTING:
            self._resting.clear()
        self._resting[target.deployment_id] = time.monotonic() + seconds

    def _rests(self, deployment_id: str) -> bool:
        if time.monotonic() < self._resting[deployment_id]:
            return True
        del self._resting[deployment_id]
        return False

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

    def _is_reachable(self, target: Target) -> bool:
        """False if its connection ended, but the database has not been updated yet."""
        return self._links.get(target.agent_id) is not None or bool(set(target.addresses) - {self._links.address})

    def _candidate(self, target: Target) -> "_Candidate":
        link = self._links.get(target.agent_id)
        is_forwarded = link is None
        link = link or self._forwarder.link(target)
        slots = (link.loads.of(target.deployment_id).slots if link is not None else 0) or _USUAL_SLOTS
        busy = link.busy if link is not None else 0
        return _Candidate(target, busy, slots, self.is_full(target), is_forwarded)


class _Candidate(NamedTuple):
    target: Target
    busy: int
    slots: int
    is_full: bool
    is_forwarded: bool


def _load(candidate: _Candidate) -> tuple[float, bool]:
    """With one more request, in parts of what the machine can do at once."""
    return (candidate.busy + 1) / candidate.slots, candidate.is_forwarded
