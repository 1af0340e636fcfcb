"""Everybody who has signed up, and who of them runs the platform."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from modelshare.server.accounts import people
from modelshare.server.http import PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.page_auth import AdminCaller
from modelshare.server.web.pages import PageRoute, redirect_after_form, render

router = APIRouter(prefix="/people", route_class=PageRoute)


@router.get("")
async def everybody(request: Request, caller: AdminCaller, session: ReadSession, paging: PagingDep) -> Response:
    return render(request, "platform/people.html", people=await people.people(session, caller, paging))


@router.post("/{person_id}/admin")
async def set_admin(
    request: Request,
    caller: AdminCaller,
    session: WriteSession,
    platform: PlatformDep,
    person_id: uuid.UUID,
    admin: Annotated[bool, Form()],
) -> Response:
    person = await people.set_admin(session, caller, person_id, is_admin=admin, now=platform.now())
    url = "/dashboard" if person_id == caller.person_id and not admin else "/dashboard/-/platform/people"
    return redirect_after_form(request, url, f"{person.name} is {'now' if admin else 'no longer'} an admin.")
