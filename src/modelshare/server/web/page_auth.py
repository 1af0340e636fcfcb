"""Who looks at a page, and in which project he acts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request, Response

from modelshare.server.accounts import people
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.sessions import SessionAuthenticator
from modelshare.server.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError
from modelshare.server.http import SESSION_COOKIE, Caller, base_url, get_platform, is_same_origin, requested_url
from modelshare.server.proven import proven
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import Project, Scope


class SignInNeededError(UnauthenticatedError):
    """The page is for people who are signed in: errors of this kind lead there and back."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever looks. `token` is the session that says so."""

    person: Person | None = None
    token: str | None = None


ANONYMOUS: Final = Visitor()
DASHBOARD: Final = "/dashboard"


async def visitor_of(request: Request) -> Visitor:
    """By the session's cookie."""
    token = request.cookies.get(SESSION_COOKIE)
    person = await _book(request).person(token) if token else None
    if person is None:
        return ANONYMOUS
    proven(request.scope)
    return Visitor(person, token)


def sign_in_url(request: Request) -> str:
    """Where to sign in, and to come back from: to the page that was asked for, or that the form is on."""
    is_page = request.method == "GET" and "hx-request" not in request.headers
    page = urlsplit(str(request.url) if is_page else _page_of_form(request))
    here = page.path + (f"?{page.query}" if page.query else "")
    return f"/sign-in?next={quote(own_path(here, DASHBOARD))}"


def own_path(url: str | None, fallback: str) -> str:
    """`url` where it is a path of this site; anything else could lead a person elsewhere."""
    if not url or not url.startswith("/") or url.startswith("//") or "\\" in url or not url.isprintable() or " " in url:
        return fallback
    parts = urlsplit(url)
    return fallback if parts.scheme or parts.netloc else url


def sign_in_as(request: Request, response: Response, token: str) -> None:
    """Keeps the session in the browser."""
    days = get_platform(request).settings.accounts_session_days
    secure = base_url(request).startswith("https:")
    response.set_cookie(SESSION_COOKIE, token, days * 86_400, httponly=True, samesite="lax", secure=secure)


def sign_out(response: Response) -> None:
    response.delete_cookie(SESSION_COOKIE)


def _page_of_form(request: Request) -> str:
    """URL of the page, as the browser says it, where it is one of this site; else the dashboard."""
    page = request.headers.get("hx-current-url") or request.headers.get("referer")
    own = requested_url(request, get_platform(request).settings)
    return page if page and is_same_origin(site=None, origin=page, own_url=own) else DASHBOARD


async def visitor(request: Request) -> Visitor:
    found: Visitor = request.state.visitor
    return found


async def signed_in(found: Annotated[Visitor, Depends(visitor)]) -> Person:
    """Sends others to sign in."""
    if found.person is None:
        raise SignInNeededError
    return found.person


async def caller_now(request: Request, project: str) -> Caller | None:
    """The person in this project, asked anew: what goes on for long ends for who is not in it any more."""
    token = request.state.visitor.token
    return await _book(request).caller(token, project) if token else None


async def member(request: Request, project: str) -> Caller:
    """The person in a project that they chose; 404 for anybody who is not in it."""
    caller = await caller_now(request, project)
    if caller is None:
        raise NotFoundError(
            "There is no such project, or you are not a member of it. Choose one of yours.",
            code=ErrorCode.PROJECT_NOT_FOUND,
        )
    return caller


async def project_caller(request: Request, project: str, _: Annotated[Person, Depends(signed_in)]) -> Caller:
    """The person in the project that the path names; 404 for anybody who is not in it."""
    platform = get_platform(request)
    caller = await caller_now(request, project)
    named = await platform.find_project(caller.project) if caller else None
    if caller is None or named is None:
        raise NotFoundError("There is no such project, or you are not a member of it.")
    request.state.caller = caller
    request.state.project = named
    return caller


def in_project(scope: Scope | None = None) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the person in the path's project, with this scope."""

    async def caller(found: Annotated[Caller, Depends(project_caller)]) -> Caller:
        if scope is not None and not found.allows(scope):
            raise PermissionDeniedError("Only owners of the project may do this. Ask one of them.")
        return found

    return caller


async def platform_admin(person: Annotated[Person, Depends(signed_in)]) -> Caller:
    """The person as who runs the platform; for others there is no such page."""
    if not person.is_admin:
        raise NotFoundError("There is no such page.")
    return people.platform_caller(person)


async def project(request: Request, _: Annotated[Caller, Depends(project_caller)]) -> Project:
    found: Project = request.state.project
    return found


def _book(request: Request) -> SessionAuthenticator:
    found: SessionAuthenticator = get_platform(request).parts[SessionAuthenticator]
    return found


VisitorDep = Annotated[Visitor, Depends(visitor)]
SignedIn = Annotated[Person, Depends(signed_in)]
ProjectDep = Annotated[Project, Depends(project)]
MemberCaller = Annotated[Caller, Depends(in_project())]
ModelsCaller = Annotated[Caller, Depends(in_project(Scope.MODELS))]
EndpointsCaller = Annotated[Caller, Depends(in_project(Scope.ENDPOINTS))]
AgentsCaller = Annotated[Caller, Depends(in_project(Scope.AGENTS))]
AdminCaller = Annotated[Caller, Depends(platform_admin)]
OwnerCaller = Annotated[Caller, Depends(in_project(Scope.KEYS))]
