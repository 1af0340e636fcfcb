"""Pages of people: sign up and in, the account, projects, invitations and claim links."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request, Response

from modelshare.server.accounts import invitations, members, people, sessions
from modelshare.server.accounts.sign_in import SignIn
from modelshare.server.errors import NotFoundError
from modelshare.server.http import PlatformDep, ReadSession, WriteSession, client_address
from modelshare.server.sharing import audience
from modelshare.server.web.page_auth import DASHBOARD, SignedIn, VisitorDep, member, own_path, sign_in_as, sign_out
from modelshare.server.web.pages import PageRoute, redirect_after_form, render
from modelshare.wire.keys import Scope

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=4096)]
Token = Annotated[str, Query(max_length=200)]
OnwardField = Annotated[str, Form(alias="next")]
OnwardQuery = Annotated[str, Query(alias="next")]


async def _sign_in(platform: PlatformDep) -> SignIn:
    found: SignIn = platform.parts[SignIn]
    return found


SignInDep = Annotated[SignIn, Depends(_sign_in)]


@router.get("/")
async def home(request: Request) -> Response:
    return render(request, "home.html")


@router.get("/sign-in")
async def sign_in_page(request: Request, visitor: VisitorDep, onward: OnwardQuery = DASHBOARD) -> Response:
    target = own_path(onward, DASHBOARD)
    return (
        redirect_after_form(request, target) if visitor.person else render(request, "account/sign_in.html", next=target)
    )


@router.post("/sign-in")
async def sign_in(
    request: Request, sign_in: SignInDep, email: Text, password: Text, onward: OnwardField = DASHBOARD
) -> Response:
    _, token = await sign_in.sign_in(email=email, password=password, address=client_address(request))
    response = redirect_after_form(request, own_path(onward, DASHBOARD))
    sign_in_as(request, response, token)
    return response


@router.get("/sign-up")
async def sign_up_page(
    request: Request,
    session: ReadSession,
    platform: PlatformDep,
    invitation: Token = "",
    onward: OnwardQuery = DASHBOARD,
) -> Response:
    first = not await people.any_exist(session)
    invited = await invitations.invitation(session, invitation, now=platform.now()) if invitation else None
    return render(
        request,
        "account/sign_up.html",
        next=own_path(onward, DASHBOARD),
        first=first,
        invitation=invited,
        token=invitation if invited else None,
        closed=platform.settings.accounts_sign_up == "invite_only",
    )


@router.post("/sign-up")
async def sign_up(
    request: Request,
    sign_in: SignInDep,
    name: Text,
    email: Text,
    password: Text,
    invitation: Text = "",
    onward: OnwardField = DASHBOARD,
) -> Response:
    person, token = await sign_in.sign_up(
        email=email, name=name, password=password, invitation=invitation or None, address=client_address(request)
    )
    response = redirect_after_form(request, own_path(onward, DASHBOARD), f"Welcome, {person.name}.")
    sign_in_as(request, response, token)
    return response


@router.post("/sign-out")
async def sign_out_here(request: Request, visitor: VisitorDep, session: WriteSession) -> Response:
    if visitor.token:
        await sessions.close_session(session, visitor.token)
    response = redirect_after_form(request, "/")
    sign_out(response)
    return response


@router.get("/dashboard")
async def projects(request: Request, person: SignedIn, session: ReadSession) -> Response:
    """The person's projects; straight into it where there is one."""
    memberships = await members.memberships(session, person)
    if len(memberships) == 1 and not person.is_admin:
        return redirect_after_form(request, f"/dashboard/{memberships[0].slug}/models")
    return render(request, "account/projects.html", memberships=memberships)


@router.get("/dashboard/-/new")
async def new_project_page(request: Request, _: SignedIn) -> Response:
    return render(request, "account/new_project.html")


@router.post("/dashboard/-/new")
async def new_project(
    request: Request, person: SignedIn, session: WriteSession, platform: PlatformDep, name: Text, slug: Text
) -> Response:
    limit = platform.settings.accounts_projects_per_person
    project = await members.create_project(session, person, name=name, slug=slug, limit=limit, now=platform.now())
    return redirect_after_form(request, f"/dashboard/{project.slug}/models", f"Project {project.name} created.")


@router.get("/dashboard/-/account")
async def account(request: Request, person: SignedIn, session: ReadSession) -> Response:
    return render(request, "account/account.html", memberships=await members.memberships(session, person))


@router.post("/dashboard/-/account/name")
async def rename(request: Request, person: SignedIn, session: WriteSession, name: Text) -> Response:
    await people.rename(session, person, name)
    return redirect_after_form(request, "/dashboard/-/account", "Saved.")


@router.post("/dashboard/-/account/password")
async def change_password(
    request: Request,
    person: SignedIn,
    visitor: VisitorDep,
    sign_in: SignInDep,
    current: Text,
    new: Text,
) -> Response:
    await sign_in.change_password(
        person, old=current, new=new, token=visitor.token or "", address=client_address(request)
    )
    return redirect_after_form(request, "/dashboard/-/account", "Password changed. All other sessions have ended.")


@router.post("/dashboard/-/account/sign-out-others")
async def sign_out_others(request: Request, person: SignedIn, visitor: VisitorDep, session: WriteSession) -> Response:
    await sessions.close_all(session, person.id, except_token=visitor.token)
    return redirect_after_form(request, "/dashboard/-/account", "All other sessions have ended.")


@router.get("/join")
async def invitation_page(request: Request, session: ReadSession, platform: PlatformDep, token: Token) -> Response:
    invited = await invitations.invitation(session, token, now=platform.now())
    if invited is None:
        raise NotFoundError("This invitation has been used or has expired. Ask a project's owner for a new link.")
    return render(request, "account/invitation.html", invitation=invited, token=token)


@router.post("/join")
async def join(
    request: Request, person: SignedIn, session: WriteSession, platform: PlatformDep, token: Text
) -> Response:
    await invitations.accept(session, person, token, now=platform.now())
    return redirect_after_form(request, DASHBOARD, "You joined the project.")


@router.get("/claim")
async def claim_page(request: Request, person: SignedIn, session: ReadSession, token: Token = "") -> Response:
    memberships = await members.memberships(session, person)
    options = [(each.project_id, f"{each.name} ({each.slug})") for each in memberships]
    return render(request, "account/claim.html", token=token, memberships=memberships, options=options)


@router.post("/claim")
async def claim(
    request: Request,
    _: SignedIn,
    session: WriteSession,
    platform: PlatformDep,
    project: Text,
    token: Text,
) -> Response:
    caller = await member(request, project)
    request.state.caller = caller
    caller.check(Scope.ENDPOINTS)
    model_id = await audience.claim(session, caller, token, now=platform.now())
    return redirect_after_form(
        request,
        f"/models/catalog/{model_id}?as={caller.project_slug}",
        "Link claimed. Your project can now see the model.",
    )
