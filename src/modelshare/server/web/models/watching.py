"""Parts of these pages that are live: rendered anew while the person may still see the project's models."""

from collections.abc import Awaitable, Callable

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts.sessions import SessionBook
from modelshare.server.errors import NotFound
from modelshare.server.http import get_platform
from modelshare.server.web.live import Part
from modelshare.server.web.visitor import Visitor
from modelshare.wire.keys import Project, Scope


def watched(request: Request, project: Project, draw: Callable[[AsyncSession], Awaitable[str]]) -> Part:
    """The part that `draw` renders in a session of its own; it ends with what it shows, or with the person's right."""
    platform, visitor = get_platform(request), request.state.visitor

    async def part() -> str | None:
        if not await _may_see(platform.parts[SessionBook], visitor, project):
            return None
        async with platform.database.read() as session:
            try:
                return await draw(session)
            except NotFound:
                return None

    return part


async def _may_see(book: SessionBook, visitor: Visitor, project: Project) -> bool:
    caller = await book.caller(visitor.token or "", project.id)
    return caller is not None and caller.allows(Scope.MODELS)
