"""`/v1/platform/jobs`."""

from fastapi import APIRouter

from modelshare.server.audit.given_up import service
from modelshare.server.http import PagingDep, PlatformCaller, PlatformDep, ProjectRoute, ReadSession, WriteSession
from modelshare.wire.base import Page
from modelshare.wire.jobs import GivenUpJob

router = APIRouter(prefix="/v1/platform/jobs", tags=["platform"], route_class=ProjectRoute)


@router.get("")
async def list_given_up_jobs(_: PlatformCaller, session: ReadSession, paging: PagingDep) -> Page[GivenUpJob]:
    """Jobs in the background that failed too often and were given up, the latest first; kept for 30 days."""
    return await service.page(session, paging)


@router.post("/{job_id}/retry")
async def retry_job(caller: PlatformCaller, session: WriteSession, platform: PlatformDep, job_id: str) -> GivenUpJob:
    """Has a job that was given up run once more, at once; the answer is how it stood."""
    return await service.try_again(session, caller, job_id, now=platform.now())
