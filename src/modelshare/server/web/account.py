"""Pages of people: sign up and in, the account, projects, invitations and claim links."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Response

from modelshare.server.accounts import invitations, members, people, sessions
from modelshare.server.errors import NotFoundError
from modelshare.server.http import client_address
from modelshare.server.sharing import audience
from modelshare.server.web.context import AnyPage, PersonPage, Text
from modelshare.server.web.page_auth import DASHBOARD, own_path, sign_in_as, sign_out
from modelshare.server.web.pages import PageRoute
from modelshare.wire.keys import Scope

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Token = Annotated[str, Query(max_length=200)]
OnwardField = Annotated[str, Form(alias="next")]
OnwardQuery = Annotated[str, Query(alias="next")]


@router.get("/")
async def home(page: AnyPage) -> Response:
    return page.render("home.html")


@router.get("/sign-in")
async def sign_in_page(page: AnyPage, onward: OnwardQuery = DASHBOARD) -> Response:
    target = own_path(onward, DASHBOARD)
    return page.redirect(target) if page.visitor.person else page.render("account/sign_in.html", next=target)


@router.post("/sign-in")
async def sign_in(page: AnyPage, email: Text, password: Text, onward: OnwardField = DASHBOARD) -> Response:
    _, token = await page.platform.sign_in.sign_in(email=email, password=password, address=client_address(page.request))
    response = page.redirect(own_path(onward, DASHBOARD))
    sign_in_as(page.request, response, token)
    return response


@router.get("/sign-up")
async def sign_up_page(page: AnyPage, invitation: Token = "", onward: OnwardQuery = DASHBOARD) -> Response:
    first = not await people.any_exist(page.session)
    invited = await invitations.invitation(page.session, invitation, now=page.now) if invitation else None
    return page.render(
        "account/sign_up.html",
        next=own_path(onward, DASHBOARD),
        first=first,
        invitation=invited,
        token=invitation if invited else None,
        closed=page.platform.settings.accounts_sign_up == "invite_only",
    )


@router.post("/sign-up")
async def sign_up(
    page: AnyPage,
    name: Text,
    email: Text,
    password: Text,
    invitation: Text = "",
    onward: OnwardField = DASHBOARD,
) -> Response:
    person, token = await page.platform.sign_in.sign_up(
        email=email, name=name, password=password, invitation=invitation or None, address=client_address(page.request)
    )
    response = page.redirect(own_path(onward, DASHBOARD), f"Welcome, {person.name}.")
    sign_in_as(page.request, response, token)
    return response


@router.post("/sign-out")
async def sign_out_here(page: AnyPage) -> Response:
    if page.visitor.token:
        await sessions.close_session(page.session, page.visitor.token)
    response = page.redirect("/")
    sign_out(response)
    return response


@router.get("/dashboard")
async def projects(page: PersonPage) -> Response:
    """The person's projects; straight into it where there is one."""
    memberships = await members.memberships(page.session, page.person)
    if len(memberships) == 1 and not page.person.is_admin:
        return page.redirect(f"/dashboard/{memberships[0].slug}/models")
    return page.render("account/projects.html", memberships=memberships)


@router.get("/dashboard/-/new")
async def new_project_page(page: PersonPage) -> Response:
    return page.render("account/new_project.html")


@router.post("/dashboard/-/new")
async def new_project(page: PersonPage, name: Text, slug: Text) -> Response:
    limit = page.platform.settings.accounts_projects_per_person
    project = await members.create_project(page.session, page.person, name=name, slug=slug, limit=limit, now=page.now)
    return page.redirect(f"/dashboard/{project.slug}/models", f"Project {project.name} created.")


@router.get("/dashboard/-/account")
async def account(page: PersonPage) -> Response:
    return page.render("account/account.html", memberships=await members.memberships(page.session, page.person))


@router.post("/dashboard/-/account/name")
async def rename(page: PersonPage, name: Text) -> Response:
    await people.rename(page.session, page.person, name)
    return page.redirect("/dashboard/-/account", "Saved.")


@router.post("/dashboard/-/account/password")
async def change_password(page: PersonPage, current: Text, new: Text) -> Response:
    await page.platform.sign_in.change_password(
        page.person, old=current, new=new, token=page.visitor.token or "", address=client_address(page.request)
    )
    return page.redirect("/dashboard/-/account", "Password changed. All other sessions have ended.")


@router.post("/dashboard/-/account/sign-out-others")
async def sign_out_others(page: PersonPage) -> Response:
    await sessions.close_all(page.session, page.person.id, except_token=page.visitor.token)
    return page.redirect("/dashboard/-/account", "All other sessions have ended.")


@router.get("/join")
async def invitation_page(page: AnyPage, token: Token) -> Response:
    invited = await invitations.invitation(page.session, token, now=page.now)
    if invited is None:
        raise NotFoundError("This invitation has been used or has expired. Ask a project's owner for a new link.")
    return page.render("account/invitation.html", invitation=invited, token=token)


@router.post("/join")
async def join(page: PersonPage, token: Text) -> Response:
    await invitations.accept(page.session, page.person, token, now=page.now)
    return page.redirect(DASHBOARD, "You joined the project.")


@router.get("/claim")
async def claim_page(page: PersonPage, token: Token = "") -> Response:
    memberships = await members.memberships(page.session, page.person)
    options = [(each.project_id, f"{each.name} ({each.slug})") for each in memberships]
    return page.render("account/claim.html", token=token, memberships=memberships, options=options)


@router.post("/claim")
async def claim(page: PersonPage, project: Text, token: Text) -> Response:
    caller = await page.act_in(project, Scope.ENDPOINTS)
    model_id = await audience.claim(page.session, caller, token, now=page.now)
    return page.redirect(f"/models/catalog/{model_id}?as={caller.project_slug}", "Claimed: your project sees it now.")
