"""The context of routes of pages: visitor, caller, database session, and responses."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from fastapi import Depends, Form, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import people
from modelshare.server.accounts.presenters import Person
from modelshare.server.endpoints.policy import EndpointPolicy
from modelshare.server.errors import NotFoundError, PermissionDeniedError
from modelshare.server.http import SAFE_METHODS, Caller, base_url
from modelshare.server.web.page_auth import (
    PagesPlatform,
    SignInNeededError,
    Visitor,
    caller_now,
    member,
    pages_platform,
)
from modelshare.server.web.pages import fragment, is_htmx, redirect_after_form, render, show_once
from modelshare.wire.keys import Project, Scope

Text = Annotated[str, Form(max_length=4096)]
"""A field of a form."""


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """A request for a page, from any visitor."""

    request: Request
    platform: PagesPlatform
    session: AsyncSession
    """For requests that only read, a read-only session; else a transaction. Opened on first use."""

    @property
    def visitor(self) -> Visitor:
        found: Visitor = self.request.state.visitor
        return found

    @property
    def now(self) -> int:
        """Unix seconds."""
        return self.platform.now()

    @property
    def policy(self) -> EndpointPolicy:
        return self.platform.endpoint_policy

    @property
    def base_url(self) -> str:
        return base_url(self.request)

    @property
    def is_htmx(self) -> bool:
        return is_htmx(self.request)

    async def act_in(self, project: str, scope: Scope) -> Caller:
        """The person in a project selected in the form instead of the path."""
        caller = await member(self.request, project)
        self.request.state.caller = caller
        caller.check(scope)
        return caller

    def render(self, template: str, **context: Any) -> Response:
        return render(self.request, template, **context)

    def redirect(self, url: str, message: str | None = None) -> Response:
        """Redirects to `url` after a successful form; the next page shows `message`."""
        return redirect_after_form(self.request, url, message)

    def show_once(self, template: str, **context: Any) -> Response:
        """Renders what is shown only once, such as a key's value."""
        return show_once(self.request, template, **context)


@dataclass(frozen=True, kw_only=True)
class PersonContext(PageContext):
    """A request from a person who is signed in."""

    person: Person


@dataclass(frozen=True, kw_only=True)
class CallerContext(PersonContext):
    """A request from a person who acts for a project, or for the platform."""

    caller: Caller


@dataclass(frozen=True, kw_only=True)
class ProjectContext(CallerContext):
    """A request for a page of the project in the path."""

    project: Project
    scope: Scope | None
    """The scope that the page requires; None if every member may see it."""

    @property
    def root(self) -> str:
        """The root of the project's pages."""
        return f"/dashboard/{self.project.slug}"

    def fragment(self, template: str, **context: Any) -> str:
        """A part of the page, for `live`."""
        return fragment(template, root=self.root, now=self.now, **context)

    def live(self, draw: Callable[[Self], Awaitable[str]]) -> Response:
        """Streams a part of the page whenever it changes, until it no longer exists or the person may not see it any
        more."""

        async def part() -> str | None:
            caller = await caller_now(self.request, self.project.id)
            if caller is None or (self.scope is not None and not caller.allows(self.scope)):
                return None
            async with self.platform.database.read() as session:
                try:
                    return await draw(replace(self, session=session, caller=caller))
                except NotFoundError:
                    return None

        return self.platform.live.stream(self.person.id, self.project.id, part)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database = pages_platform(request).database
    async with database.read() if request.method in SAFE_METHODS else database.write() as session:
        yield session


async def _anybody(
    request: Request, session: Annotated[AsyncSession, Depends(_session, scope="function")]
) -> PageContext:
    return PageContext(request=request, platform=pages_platform(request), session=session)


AnyPage = Annotated[PageContext, Depends(_anybody)]


async def _person(page: AnyPage) -> PersonContext:
    """Requires a person who is signed in; redirects others to sign in."""
    if page.visitor.person is None:
        raise SignInNeededError
    return PersonContext(request=page.request, platform=page.platform, session=page.session, person=page.visitor.person)


PersonPage = Annotated[PersonContext, Depends(_person)]


async def _admin(page: PersonPage) -> CallerContext:
    """Requires an admin of the platform; 404 for others."""
    if not page.person.is_admin:
        raise NotFoundError("There is no such page.")
    caller = page.request.state.caller = people.platform_caller(page.person)
    return CallerContext(
        request=page.request, platform=page.platform, session=page.session, person=page.person, caller=caller
    )


def _member(scope: Scope | None = None) -> Callable[..., Awaitable[ProjectContext]]:
    """Requires a member of the path's project with this scope; 404 for others."""

    async def in_project(page: PersonPage, project: str) -> ProjectContext:
        caller = await caller_now(page.request, project)
        found = await page.platform.find_project(caller.project) if caller else None
        if caller is None or found is None:
            raise NotFoundError("There is no such project, or you are not a member of it.")
        page.request.state.caller, page.request.state.project = caller, found
        if scope is not None and not caller.allows(scope):
            raise PermissionDeniedError("Only owners of the project may do this. Ask one of them.")
        return ProjectContext(
            request=page.request,
            platform=page.platform,
            session=page.session,
            person=page.person,
            caller=caller,
            project=found,
            scope=scope,
        )

    return in_project


AdminPage = Annotated[CallerContext, Depends(_admin)]
MemberPage = Annotated[ProjectContext, Depends(_member())]
ModelsPage = Annotated[ProjectContext, Depends(_member(Scope.MODELS))]
EndpointsPage = Annotated[ProjectContext, Depends(_member(Scope.ENDPOINTS))]
AgentsPage = Annotated[ProjectContext, Depends(_member(Scope.AGENTS))]
OwnerPage = Annotated[ProjectContext, Depends(_member(Scope.KEYS))]
