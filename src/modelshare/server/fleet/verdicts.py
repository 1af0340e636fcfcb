"""Signed answers to agents that ask whether they are still part of the fleet (docs/decisions/0015)."""

import hmac
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints.policy import EndpointsPlatform
from modelshare.server.fleet import queries
from modelshare.server.fleet.tables import AgentRow
from modelshare.server.ids import secret_hash
from modelshare.wire.agents import AgentState
from modelshare.wire.verdict import AgentStatus, Verdict, sign

_PURPOSE: Final = b"modelshare agent verdict key 1\n"


class Verdicts:
    """Signs with one key per agent, derived from the platform's secret and not stored, so that even agents that are no
    longer in the database get an answer.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def key_of(self, agent_id: str) -> str:
        """The key that verdicts on this agent are signed with. Only this agent gets it."""
        return hmac.new(self._secret, _PURPOSE + agent_id.encode(), "sha256").hexdigest()

    async def status(self, session: AsyncSession, *, agent_id: str, token: str, nonce: str) -> AgentStatus:
        """The signed answer to an agent that gives this id and token."""
        verdict = _verdict(agent_id, await queries.agent_that_had(session, secret_hash(token)))
        signature = sign(self.key_of(agent_id), nonce=nonce, agent_id=agent_id, token=token, verdict=verdict)
        return AgentStatus(agent_id=agent_id, verdict=verdict, signature=signature)


@dataclass(frozen=True, kw_only=True)
class FleetPlatform(EndpointsPlatform):
    verdicts: Verdicts


def _verdict(agent_id: str, row: AgentRow | None) -> Verdict:
    if row is None or str(row.id) != agent_id:
        return Verdict.UNKNOWN
    return Verdict.REMOVED if row.state == AgentState.REMOVED else Verdict.KNOWN
