"""Invitation links to projects: for one use, valid for seven days, shown once."""

import uuid
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import members, queries
from modelshare.server.accounts.presenters import InvitationView, Invited, Person, invitation_view, invited_view
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.accounts.tables import InvitationRow
from modelshare.server.audit.service import Audit
from modelshare.server.errors import NotFoundError
from modelshare.server.http import Caller
from modelshare.server.ids import new_secret, secret_hash

_SECONDS: Final = 7 * 24 * 3600


async def invite(session: AsyncSession, caller: Caller, role: MemberRole, *, now: int) -> tuple[InvitationView, str]:
    """Creates an invitation; returns its token only here. For owners."""
    members.check_owner(caller)
    token = new_secret("msi")
    row = InvitationRow(
        project_id=caller.project,
        hash=secret_hash(token),
        role=role.value,
        created_at=now,
        expires_at=now + _SECONDS,
    )
    session.add(row)
    await session.flush()
    _record(session, caller, "invitation.create", row.id, now, role=role.value)
    return invitation_view(row), token


async def invitations(session: AsyncSession, caller: Caller, *, now: int) -> list[InvitationView]:
    """Unused invitations, newest first. For owners."""
    members.check_owner(caller)
    return [invitation_view(row) for row in await queries.invitations(session, caller.project, now)]


async def end_invitation(session: AsyncSession, caller: Caller, invitation_id: uuid.UUID, *, now: int) -> None:
    """Revokes an invitation. For owners."""
    members.check_owner(caller)
    if not await queries.end_invitation(session, caller.project, invitation_id):
        raise NotFoundError("There is no such invitation in this project. It was used or ended, or it has expired.")
    _record(session, caller, "invitation.end", invitation_id, now)


async def invitation(session: AsyncSession, token: str, *, now: int) -> Invited | None:
    """The project and role of an invitation, without using it; None if it is invalid."""
    row = await queries.invitation_by_hash(session, secret_hash(token), now)
    return None if row is None else invited_view(row)


async def accept(session: AsyncSession, person: Person, token: str, *, now: int) -> str:
    """Accepts the invitation: adds the person to the project, whose ID is returned.

    404 if the invitation is invalid; 409, without using it, if the person already is a member.
    """
    row = await queries.take_invitation(session, secret_hash(token), now)
    if row is None:
        raise NotFoundError("This invitation was used or ended, or it has expired. Ask for a new one.")
    await members.add(session, row.project_id, person, MemberRole(row.role), now=now)
    return row.project_id


def _record(
    session: AsyncSession, caller: Caller, action: str, invitation_id: uuid.UUID, now: int, **details: Any
) -> None:
    Audit(session, caller.project, caller.actor, now).done(action, f"invitation:{invitation_id}", **details)
