"""The platform's overview: processes, counts and pending jobs; and its audit log."""

import time
from typing import Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare import __version__
from modelshare.server import jobs
from modelshare.server.accounts import people
from modelshare.server.accounts import service as accounts
from modelshare.server.audit.given_up import service as given_up
from modelshare.server.audit.propagation import service as confirming
from modelshare.server.audit.webhooks import service as webhooks
from modelshare.server.clock import SKEW_SECONDS
from modelshare.server.endpoints import service as endpoints
from modelshare.server.fleet import service as fleet
from modelshare.server.paging import Paging, PagingDep
from modelshare.server.registry import service as registry
from modelshare.server.settings import Settings
from modelshare.server.sharing import service as sharing
from modelshare.server.web.audit import Where, log_page
from modelshare.server.web.context import AdminPage
from modelshare.server.web.pages import PageRoute
from modelshare.wire.base import PAGE_LIMIT_MAX

router = APIRouter(route_class=PageRoute)
_MAX: Final = 100_000
"""Limit for counting."""


@router.get("")
async def overview(page: AdminPage, paging: PagingDep) -> Response:
    started = time.perf_counter()
    processes = await confirming.page(page.session, Paging(PAGE_LIMIT_MAX))
    answered_ms = (time.perf_counter() - started) * 1000
    skew = page.platform.clock.skew
    return page.render(
        "platform/overview.html",
        version=__version__,
        database="SQLite" if page.platform.database.is_sqlite else "PostgreSQL",
        answered_ms=answered_ms,
        skew=round(skew) if abs(skew) > SKEW_SECONDS else None,
        storage=_storage(page.platform.settings),
        processes=processes.data,
        counts=await _counts(page.session),
        limit=_MAX,
        queues=await jobs.queues(page.session),
        given_up=await given_up.page(page.session, paging),
        backlog=await webhooks.backlog(page.session, _MAX),
    )


@router.post("/jobs/{job_id}/retry")
async def retry_job(page: AdminPage, job_id: str) -> Response:
    await given_up.try_again(page.session, page.caller, job_id, now=page.now)
    return page.redirect("/dashboard/-/platform", "Running the job again. If it fails again, it returns to this list.")


@router.get("/audit")
async def log(page: AdminPage, paging: PagingDep, where: Where) -> Response:
    return await log_page(page, "platform/audit.html", paging, where)


@router.get("/tiers")
async def tiers(page: AdminPage) -> Response:
    """The tiers and their limits, as read at the start."""
    return page.render("platform/tiers.html", tiers=list(page.platform.tiers), file=page.platform.settings.tiers_file)


async def _counts(session: AsyncSession) -> list[tuple[str, int]]:
    return [
        ("Projects", await accounts.count_projects(session, _MAX)),
        ("Users", await people.count(session, _MAX)),
        ("Models", await registry.count(session, _MAX)),
        ("Shared models", await sharing.count(session, _MAX)),
        ("Active endpoints", await endpoints.count_active(session, _MAX)),
        ("Agents connected", await fleet.count_linked(session, _MAX)),
    ]


def _storage(settings: Settings) -> str:
    """A short form of the setting, since the whole may contain credentials."""
    url = urlsplit(settings.storage_url or "file:")
    if url.scheme == "file":
        return "a folder on this machine"
    return f"the bucket {url.hostname or ''} (S3)" if url.scheme == "s3" else f"a store of the plug-in {url.scheme}"
