"""Who looks at the catalog: everybody as the public does, unless a member asks to look as a project (`?as=slug`)."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from modelshare.server.accounts import members
from modelshare.server.http import Caller, ReadSession
from modelshare.server.sharing.search import ANYBODY, Viewer
from modelshare.server.web.page_auth import VisitorDep, member
from modelshare.wire.keys import Scope


@dataclass(frozen=True, slots=True)
class PageViewer:
    """Whoever looks, and as which project."""

    viewer: Viewer = ANYBODY
    caller: Caller | None = None
    """The person in the project they look as; None: as the public does."""
    projects: tuple[tuple[str, str], ...] = ()
    """Slug and words of those they may look as."""

    @property
    def slug(self) -> str:
        return (self.caller.project_slug or "") if self.caller else ""


async def onlooker(
    request: Request,
    session: ReadSession,
    visitor: VisitorDep,
    project: Annotated[str, Query(alias="as", max_length=100)] = "",
) -> PageViewer:
    """Somebody who is not signed in sees what the public sees, whatever the URL says."""
    if visitor.person is None:
        return PageViewer()
    found = {each.slug: f"{each.name} ({each.slug})" for each in await members.memberships(session, visitor.person)}
    if not project:
        return PageViewer(projects=tuple(found.items()))
    caller = await member(request, project)
    slug = caller.project_slug or project
    found.setdefault(slug, slug)  # who runs the platform may look as any
    knows = caller.allows(Scope.MODELS) or caller.allows(Scope.ENDPOINTS)
    return PageViewer(Viewer(caller.project_id) if knows else ANYBODY, caller, tuple(found.items()))


OnlookerDep = Annotated[PageViewer, Depends(onlooker)]
