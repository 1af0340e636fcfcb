"""Whether this agent is still part of the fleet, according to a verdict signed by its own platform."""

import hmac
import logging
import secrets
from pathlib import Path

import msgspec

from modelshare.agent.errors import AgentError
from modelshare.agent.identity import Identity, save_identity
from modelshare.agent.server_api import ServerApi
from modelshare.wire.verdict import NONCE_BYTES, Verdict, sign

_log = logging.getLogger(__name__)


class FleetStatus:
    """The fleet status of one identity."""

    def __init__(self, api: ServerApi, identity: Identity, data_dir: Path) -> None:
        self._api = api
        self._identity = identity
        self._data_dir = data_dir

    @property
    def key(self) -> str:
        """The key that signs verdicts, and links to files of this agent; empty if not known yet."""
        return self._identity.verdict_key

    def store_key(self, key: str) -> None:
        """Stores the key that signs verdicts.

        Once stored, it is never replaced, in case the server's address is taken over.
        """
        if key and not self._identity.verdict_key:
            self._identity = msgspec.structs.replace(self._identity, verdict_key=key)
            try:
                save_identity(self._data_dir, self._identity)
            except OSError as error:
                _log.warning("The server's key cannot be stored: %s", error)

    async def verdict(self) -> Verdict | None:
        """The platform's verdict, or None if there is none with a valid signature."""
        known, nonce = self._identity, secrets.token_hex(NONCE_BYTES)
        try:
            status = await self._api.status(known.agent_id, nonce)
        except AgentError as error:
            _log.info("The server did not confirm whether it knows this agent: %s", error)
            return None
        expected = sign(
            known.verdict_key, nonce=nonce, agent_id=known.agent_id, token=known.token, verdict=status.verdict
        )
        if known.verdict_key and hmac.compare_digest(expected.encode(), status.signature.encode()):
            return status.verdict
        _log.warning(
            "The server says that this agent is %s, but cannot prove that it is the platform the agent enrolled "
            "with. If it is, stop the agent and delete its data folder.",
            status.verdict,
        )
        return None
