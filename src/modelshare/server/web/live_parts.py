"""Parts of a project's pages that are live: rendered anew while the person may still see them."""

from collections.abc import Awaitable, Callable

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import NotFoundError
from modelshare.server.http import Caller, get_platform
from modelshare.server.web.live import Part
from modelshare.server.web.page_auth import caller_now
from modelshare.wire.keys import Project, Scope

Draw = Callable[[AsyncSession, Caller], Awaitable[str]]
"""The part's HTML, for the person as they are in the project at this moment."""


def watched(request: Request, project: Project, scope: Scope, draw: Draw) -> Part:
    """The part that `draw` renders in a session of its own; it ends with what it shows, or with the person's right."""
    platform = get_platform(request)

    async def part() -> str | None:
        caller = await caller_now(request, project.id)
        if caller is None or not caller.allows(scope):
            return None
        async with platform.database.read() as session:
            try:
                return await draw(session, caller)
            except NotFoundError:
                return None

    return part
