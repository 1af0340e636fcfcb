"""Pages of a project's people: roles, removal, invitations."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Form, Response

from modelshare.server.accounts import invitations, members
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.paging import PagingDep
from modelshare.server.web.context import MemberPage, OwnerPage
from modelshare.server.web.pages import PageRoute

router = APIRouter(prefix="/dashboard/{project}/members", route_class=PageRoute, include_in_schema=False)
Role = Annotated[MemberRole, Form()]


@router.get("")
async def people(page: OwnerPage, paging: PagingDep) -> Response:
    return page.render(
        "dashboard/members/list.html",
        members=await members.members(page.session, page.caller, paging),
        invitations=await invitations.invitations(page.session, page.caller, now=page.now),
    )


@router.post("/{person_id}/role")
async def change_role(page: OwnerPage, person_id: uuid.UUID, role: Role) -> Response:
    await members.change_role(page.session, page.caller, person_id, role, now=page.now)
    gave_up = person_id == page.person.id and role is MemberRole.MEMBER and not page.person.is_admin
    return page.redirect(f"{page.root}/{'models' if gave_up else 'members'}", "Saved.")


@router.get("/{person_id}/remove")
async def remove_page(page: MemberPage, person_id: uuid.UUID) -> Response:
    """Owners can remove anyone; other members only themselves."""
    if page.caller.person_id != person_id:
        members.check_owner(page.caller)
    found = await members.member(page.session, page.caller, person_id)
    return page.render("dashboard/members/remove.html", member=found)


@router.post("/{person_id}/remove")
async def remove(page: MemberPage, person_id: uuid.UUID) -> Response:
    """Removes a member. Members leave a project this way too."""
    await members.remove(page.session, page.caller, person_id, now=page.now)
    if person_id == page.person.id:
        return page.redirect("/dashboard", "You have left the project.")
    return page.redirect(f"{page.root}/members", "Member removed.")


@router.post("/invitations")
async def invite(page: OwnerPage, role: Role) -> Response:
    invitation, token = await invitations.invite(page.session, page.caller, role, now=page.now)
    link = f"{page.base_url}/join?token={token}"
    return page.show_once("dashboard/members/invited.html", invitation=invitation, link=link)


@router.post("/invitations/{invitation_id}/end")
async def end_invitation(page: OwnerPage, invitation_id: uuid.UUID) -> Response:
    await invitations.end_invitation(page.session, page.caller, invitation_id, now=page.now)
    return page.redirect(f"{page.root}/members", "Invitation revoked. Its link no longer works.")
