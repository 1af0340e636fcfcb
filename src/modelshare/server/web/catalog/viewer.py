"""Who looks at the catalog: everybody as the public does, unless a member asks to look as a project (`?as=slug`)."""

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
    """Whoever looks, and as which project."""

    sees: Viewer = ANYBODY
    caller: Caller | None = None
    """The person in the project they look as; None: as the public does."""
    projects: tuple[tuple[str, str], ...] = ()
    """Slug and words of those they may look as."""

    @property
    def slug(self) -> str:
        return (self.caller.project_slug or "") if self.caller else ""


async def viewer(
    page: AnyPage,
    project: Annotated[str, Query(alias="as", max_length=100)] = "",
) -> CatalogViewer:
    """Somebody who is not signed in sees what the public sees, whatever the URL says."""
    if page.visitor.person is None:
        return CatalogViewer()
    # The page's session stays closed: what follows asks for a project by itself, too.
    caller = await member(page.request, project) if project else None
    async with page.platform.database.read() as session:
        memberships = await members.memberships(session, page.visitor.person)
    found = {each.slug: f"{each.name} ({each.slug})" for each in memberships}
    if caller is None:
        return CatalogViewer(projects=tuple(found.items()))
    slug = caller.project_slug or project
    found.setdefault(slug, slug)  # who runs the platform may look as any
    return CatalogViewer(sharing.viewer_of(caller), caller, tuple(found.items()))


ViewerDep = Annotated[CatalogViewer, Depends(viewer)]
