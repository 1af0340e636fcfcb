"""The pages of the platform's admins."""

from fastapi import APIRouter

from modelshare.server.web.platform import agents, featured, overview, projects

router = APIRouter(include_in_schema=False)
for pages in (overview, projects, agents, featured):
    router.include_router(pages.router, prefix="/dashboard/-/platform")
