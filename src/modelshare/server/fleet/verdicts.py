"""What the platform says of an agent that asks whether it is still part of the fleet, and how it signs that."""

import hmac
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.endpoints.service import EndpointsPlatform
from modelshare.server.fleet import queries
from modelshare.server.fleet.tables import AgentRow
from modelshare.server.ids import secret_hash
from modelshare.wire.agents import AgentState
from modelshare.wire.verdict import AgentStatus, Verdict, sign

_PURPOSE: Final = b"modelshare agent verdict key 1\n"


class Verdicts:
    """Signs with keys that are stored nowhere: whoever knows the platform's secret can make an agent's, so that it can
    speak of agents too that the database no longer knows."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def key_of(self, agent_id: str) -> str:
        """What verdicts on this agent are signed with; the agent is given it, and nobody else."""
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
