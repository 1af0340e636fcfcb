"""The agent's HTTP requests to the server: enrollment, grants, and its fleet status."""

import asyncio
import logging
from http import HTTPStatus
from typing import Final

import aiohttp
from pydantic import BaseModel, ValidationError

from modelshare.agent.errors import AgentError, GrantGoneError, PullError, StopError
from modelshare.wire.agents import Enroll, Enrolled, Grant
from modelshare.wire.backoff import Backoff
from modelshare.wire.direct import GrantRequest
from modelshare.wire.errors import ErrorEnvelope
from modelshare.wire.held import HeldChanges
from modelshare.wire.verdict import STATUS_PATH, AgentStatus

_log = logging.getLogger(__name__)

_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
_GRANT_ATTEMPTS: Final = 6
"""With the delays below about half a minute, enough for a server to restart."""
_RETRY_FIRST: Final = 0.5
_RETRY_CAP: Final = 30.0
_LONGEST_STATUS: Final = 4096


class ServerRefusalError(AgentError):
    """The server returned an error response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServerApi:
    """The server's routes for agents."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, token: str | None = None, *, retry_first: float = _RETRY_FIRST
    ) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._retry_first = retry_first
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def enroll(self, request: Enroll) -> Enrolled:
        """Exchanges a join key for an identity.

        Waits until the server is reachable. Raises StopError if it is rejected.
        """
        backoff = Backoff(self._retry_first, _RETRY_CAP)
        while True:
            try:
                return Enrolled.model_validate_json(await self._post("/v1/enroll", request))
            except ServerRefusalError as refusal:
                if refusal.status < HTTPStatus.INTERNAL_SERVER_ERROR and refusal.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise StopError(f"The server refused to enrol this agent: {refusal}") from refusal
                cause: Exception = refusal
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                cause = error
            except ValidationError as error:
                raise StopError(f"The service at {self._url} is not a modelshare server. Check --url.") from error
            delay = backoff.next()
            _log.warning("Cannot reach %s (%s). Trying again in %.1f s.", self._url, _brief(cause), delay)
            await asyncio.sleep(delay)

    async def grant(self, deployment_id: str, request: GrantRequest | None = None) -> Grant:
        """Signed URLs for a deployment's files. Raises PullError."""
        backoff = Backoff(self._retry_first, _RETRY_CAP)
        while True:
            try:
                answer = await self._post(f"/v1/agent/deployments/{deployment_id}/grant", request)
                return Grant.model_validate_json(answer)
            except ServerRefusalError as refusal:
                if refusal.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                    raise GrantGoneError("The server no longer assigns this deployment to this agent.") from refusal
                cause: Exception = refusal
            except (aiohttp.ClientError, TimeoutError, ConnectionError, ValidationError) as error:
                cause = error
            if backoff.failures + 1 >= _GRANT_ATTEMPTS:
                raise PullError(f"The server did not grant access to the weights ({_brief(cause)}).") from cause
            await asyncio.sleep(backoff.next())

    async def report_changes(self, changes: HeldChanges) -> None:
        """Says which held files no longer have the bytes that were registered. Raises AgentError."""
        try:
            await self._post("/v1/agent/held-changes", changes)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise AgentError(_brief(error)) from error

    async def status(self, agent_id: str, nonce: str) -> AgentStatus:
        """The signed status of this agent; the caller must verify the signature. Raises AgentError."""
        query = {"agent_id": agent_id, "nonce": nonce}
        asked = self._http.get(self._url + STATUS_PATH, params=query, headers=self._headers, timeout=_TIMEOUT)
        try:
            async with asked as answer:
                content = await answer.content.read(_LONGEST_STATUS)
                if answer.status != HTTPStatus.OK:
                    raise ServerRefusalError(answer.status, _message(content) or f"HTTP {answer.status}")
                return AgentStatus.model_validate_json(content)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise AgentError(_brief(error)) from error

    async def _post(self, path: str, body: BaseModel | None = None) -> bytes:
        headers = self._headers | {"Content-Type": "application/json"}
        # Without what was not set: an older server refuses fields that it does not know.
        data = body.model_dump_json(exclude_unset=True).encode() if body else b""
        async with self._http.post(self._url + path, data=data, headers=headers, timeout=_TIMEOUT) as answer:
            content = await answer.read()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise ServerRefusalError(answer.status, _message(content) or f"HTTP {answer.status}")
            return content


def _message(content: bytes) -> str | None:
    try:
        return ErrorEnvelope.model_validate_json(content).error.message
    except ValidationError:
        return None


def _brief(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ValidationError):
        return "an unexpected response"
    return str(error) or type(error).__name__
