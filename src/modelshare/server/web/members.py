"""Pages of a project's people: roles, removal, invitations."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from modelshare.server.accounts import invitations, members
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.http import BaseUrl, PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.page_auth import MemberCaller, OwnerCaller, SignedIn
from modelshare.server.web.pages import PageRoute, redirect_after_form, render, show_once

router = APIRouter(prefix="/dashboard/{project}/members", route_class=PageRoute, include_in_schema=False)
Role = Annotated[MemberRole, Form()]


@router.get("")
async def people(
    request: Request, caller: OwnerCaller, session: ReadSession, platform: PlatformDep, paging: PagingDep
) -> Response:
    return render(
        request,
        "dashboard/members/list.html",
        members=await members.members(session, caller, paging),
        invitations=await invitations.invitations(session, caller, now=platform.now()),
    )


@router.post("/{person_id}/role")
async def change_role(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    person: SignedIn,
    person_id: uuid.UUID,
    role: Role,
) -> Response:
    await members.change_role(session, caller, person_id, role, now=platform.now())
    gave_up = person_id == person.id and role is MemberRole.MEMBER and not person.is_admin
    return redirect_after_form(
        request, f"/dashboard/{caller.project_slug}/{'models' if gave_up else 'members'}", "Saved."
    )


@router.get("/{person_id}/remove")
async def remove_page(request: Request, caller: MemberCaller, session: ReadSession, person_id: uuid.UUID) -> Response:
    """Owners can remove anyone; other members only themselves."""
    if caller.person_id != person_id:
        members.check_owner(caller)
    found = await members.member(session, caller, person_id)
    return render(request, "dashboard/members/remove.html", member=found)


@router.post("/{person_id}/remove")
async def remove(
    request: Request,
    caller: MemberCaller,
    session: WriteSession,
    platform: PlatformDep,
    person: SignedIn,
    person_id: uuid.UUID,
) -> Response:
    """Removes a member. Members leave a project this way too."""
    await members.remove(session, caller, person_id, now=platform.now())
    if person_id == person.id:
        return redirect_after_form(request, "/dashboard", "You have left the project.")
    return redirect_after_form(request, f"/dashboard/{caller.project_slug}/members", "Member removed.")


@router.post("/invitations")
async def invite(
    request: Request,
    caller: OwnerCaller,
    session: WriteSession,
    platform: PlatformDep,
    base_url: BaseUrl,
    role: Role,
) -> Response:
    invitation, token = await invitations.invite(session, caller, role, now=platform.now())
    link = f"{base_url}/join?token={token}"
    return show_once(request, "dashboard/members/invited.html", invitation=invitation, link=link)


@router.post("/invitations/{invitation_id}/end")
async def end_invitation(
    request: Request, caller: OwnerCaller, session: WriteSession, platform: PlatformDep, invitation_id: uuid.UUID
) -> Response:
    await invitations.end_invitation(session, caller, invitation_id, now=platform.now())
    return redirect_after_form(
        request, f"/dashboard/{caller.project_slug}/members", "Invitation revoked. Its link no longer works."
    )
