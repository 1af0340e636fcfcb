"""Authentication for pages: the visitor, and the project for which they act."""

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
from modelshare.server.router.remaining import RouterPlatform
from modelshare.server.web.live import Live
from modelshare.wire.errors import ErrorCode


@dataclass(frozen=True, kw_only=True)
class PagesPlatform(FleetPlatform, RouterPlatform):
    """The whole platform, since pages use all domains."""

    keys: KeyAuthenticator
    sessions: SessionAuthenticator
    sign_in: SignIn
    live: Live


class SignInNeededError(UnauthenticatedError):
    """The page requires signing in. The response redirects to the sign-in page, and from there back."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A visitor of a page. `token`: of their session."""

    person: Person | None = None
    token: str | None = None


ANONYMOUS: Final = Visitor()
DASHBOARD: Final = "/dashboard"


async def visitor_of(request: Request) -> Visitor:
    """The visitor, by the session's cookie."""
    token = request.cookies.get(SESSION_COOKIE)
    person = await pages_platform(request).sessions.person(token) if token else None
    if person is None:
        return ANONYMOUS
    proven(request.scope)
    return Visitor(person, token)


def sign_in_url(request: Request) -> str:
    """The sign-in page, which leads back to the requested page, or to the page of the form."""
    is_page = request.method == "GET" and "hx-request" not in request.headers
    page = urlsplit(str(request.url) if is_page else _page_of_form(request))
    here = page.path + (f"?{page.query}" if page.query else "")
    return f"/sign-in?next={quote(own_path(here, DASHBOARD))}"


def own_path(url: str | None, fallback: str) -> str:
    """`url` if it is a path of this site, else `fallback`, to prevent open redirects."""
    if not url or not url.startswith("/") or url.startswith("//") or "\\" in url or not url.isprintable() or " " in url:
        return fallback
    parts = urlsplit(url)
    return fallback if parts.scheme or parts.netloc else url


def sign_in_as(request: Request, response: Response, token: str) -> None:
    """Sets the session's cookie."""
    days = get_platform(request).settings.accounts_session_days
    secure = base_url(request).startswith("https:")
    response.set_cookie(SESSION_COOKIE, token, days * 86_400, httponly=True, samesite="lax", secure=secure)


def sign_out(response: Response) -> None:
    response.delete_cookie(SESSION_COOKIE)


def _page_of_form(request: Request) -> str:
    """The URL of the form's page, from the browser's headers, if it is on this site; else the dashboard."""
    page = request.headers.get("hx-current-url") or request.headers.get("referer")
    own = requested_url(request, get_platform(request).settings)
    return page if page and is_same_origin(site=None, origin=page, own_url=own) else DASHBOARD


async def caller_now(request: Request, project: str) -> Caller | None:
    """The person in this project, checked again, so that streams end when a person is no longer a member."""
    token = request.state.visitor.token
    return await pages_platform(request).sessions.caller(token, project) if token else None


async def member(request: Request, project: str) -> Caller:
    """The person in a project that they selected; 404 if they are not a member."""
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
