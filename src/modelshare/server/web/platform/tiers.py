"""The tiers and their limits, as the platform read them when it started."""

from fastapi import APIRouter, Request, Response

from modelshare.server.http import PlatformDep
from modelshare.server.web.dependencies import TiersDep
from modelshare.server.web.page_auth import AdminCaller
from modelshare.server.web.pages import PageRoute, render

router = APIRouter(prefix="/tiers", route_class=PageRoute)


@router.get("")
async def tiers(request: Request, _: AdminCaller, platform: PlatformDep, book: TiersDep) -> Response:
    return render(request, "platform/tiers.html", tiers=list(book), file=platform.settings.tiers_file)
