"""Tokens of endpoints, managed by those who may manage the endpoint."""

import secrets
import string

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller
from modelshare.server.hub import queries
from modelshare.server.ids import secret_hash
from modelshare.wire.endpoints import EndpointToken
from modelshare.wire.errors import ErrorCode
from modelshare.wire.hub_tokens import ENDPOINT_TOKEN_LENGTH, PREFIX
from modelshare.wire.tiers import SELF_HOSTED

_ALPHABET = string.ascii_letters + string.digits


async def make_token(session: AsyncSession, caller: Caller, slug: str, *, now: int) -> EndpointToken:
    """A new token of the caller's endpoint, shown this once; an earlier one ends.

    403 on a shared tier, where the weights only go to the platform's machines.
    """
    row = await endpoints.get(session, caller, slug)
    if row.tier != SELF_HOSTED:
        raise PermissionDeniedError(
            f"The endpoint `{slug}` is on the shared tier `{row.tier}`: the platform's machines run it, and the "
            f"model's files go to nobody else. Only an endpoint on `{SELF_HOSTED}` can have a token.",
            code=ErrorCode.TIER_NOT_ALLOWED,
        )
    token = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(ENDPOINT_TOKEN_LENGTH))
    await queries.set_token(session, row.id, secret_hash(token), caller.actor, now)
    Audit(session, caller.project, caller.actor, now).done("endpoint.make_token", f"endpoint:{row.id}", slug=slug)
    return EndpointToken(token=token)


async def revoke_token(session: AsyncSession, caller: Caller, slug: str, *, now: int) -> None:
    """404 where the endpoint has no token."""
    row = await endpoints.get(session, caller, slug)
    if not await queries.delete_token(session, row.id):
        raise NotFoundError(f"The endpoint `{slug}` has no token.")
    Audit(session, caller.project, caller.actor, now).done("endpoint.revoke_token", f"endpoint:{row.id}", slug=slug)
