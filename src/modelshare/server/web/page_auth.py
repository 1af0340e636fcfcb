"""Who looks at a page, and in which project they act."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from fastapi import Request, Response

from modelshare.server.accounts.key_auth import KeyAuthenticator
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.sessions import SessionAuthenticator
from modelshare.server.accounts.sign_in import SignIn
from modelshare.server.errors import NotFoundError, UnauthenticatedError
from modelshare.server.fleet.verdicts import FleetPlatform
from modelshare.server.http import SESSION_COOKIE, Caller, base_url, get_platform, is_same_origin, requested_url
from modelshare.server.proven import proven
from modelshare.server.web.live import Live
from modelshare.wire.errors import ErrorCode


@dataclass(frozen=True, kw_only=True)
class PagesPlatform(FleetPlatform):
    """The whole platform: pages are on top of all domains."""

    keys: KeyAuthenticator
    sessions: SessionAuthenticator
    sign_in: SignIn
    live: Live


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
    person = await pages_platform(request).sessions.person(token) if token else None
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


async def caller_now(request: Request, project: str) -> Caller | None:
    """The person in this project, asked anew: what goes on for long ends for who is not in it any more."""
    token = request.state.visitor.token
    return await pages_platform(request).sessions.caller(token, project) if token else None


async def member(request: Request, project: str) -> Caller:
    """The person in a project that they chose; 404 for anybody who is not in it."""
    caller = await caller_now(request, project)
    if caller is None:
        raise NotFoundError(
            "There is no such project, or you are not a member of it. Choose one of yours.",
            code=ErrorCode.PROJECT_NOT_FOUND,
        )
    return caller


def pages_platform(request: Request) -> PagesPlatform:
    platform: PagesPlatform = request.scope["platform"]
    return platform
