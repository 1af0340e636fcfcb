"""Who views the catalog: the public, or a project of the user (`?as=slug`)."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

from modelshare.server.accounts import members
from modelshare.server.http import Caller
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.search import ANYBODY, Viewer
from modelshare.server.web.context import AnyPage
from modelshare.server.web.page_auth import member


@dataclass(frozen=True, slots=True)
class CatalogViewer:
    """The viewer, and the project as which they view the catalog."""

    sees: Viewer = ANYBODY
    caller: Caller | None = None
    """The user in the selected project; None: the public view."""
    projects: tuple[tuple[str, str], ...] = ()
    """Slugs and texts of the projects that can be selected."""

    @property
    def slug(self) -> str:
        return (self.caller.project_slug or "") if self.caller else ""


async def viewer(
    page: AnyPage,
    project: Annotated[str, Query(alias="as", max_length=100)] = "",
) -> CatalogViewer:
    """A visitor who is not signed in gets the public view, regardless of the URL."""
    if page.visitor.person is None:
        return CatalogViewer()
    # Does not open the page's session, since the calls below open their own.
    caller = await member(page.request, project) if project else None
    async with page.platform.database.read() as session:
        memberships = await members.memberships(session, page.visitor.person)
    found = {each.slug: f"{each.name} ({each.slug})" for each in memberships}
    if caller is None:
        return CatalogViewer(projects=tuple(found.items()))
    slug = caller.project_slug or project
    found.setdefault(slug, slug)  # the platform's admins may select any project
    return CatalogViewer(sharing.viewer_of(caller), caller, tuple(found.items()))


ViewerDep = Annotated[CatalogViewer, Depends(viewer)]
