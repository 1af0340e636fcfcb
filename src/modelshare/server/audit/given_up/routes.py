"""`/v1/platform/jobs`."""

from fastapi import APIRouter

from modelshare.server.audit.given_up import service
from modelshare.server.http import PlatformCaller, PlatformDep, ProjectRoute, ReadSession, WriteSession
from modelshare.server.paging import PagingDep
from modelshare.wire.base import Page
from modelshare.wire.jobs import GivenUpJob

router = APIRouter(prefix="/v1/platform/jobs", tags=["platform"], route_class=ProjectRoute)


@router.get("")
async def list_given_up_jobs(_: PlatformCaller, session: ReadSession, paging: PagingDep) -> Page[GivenUpJob]:
    """Lists background jobs that failed permanently, newest first; they are kept for 30 days."""
    return await service.page(session, paging)


@router.post("/{job_id}/retry")
async def retry_job(caller: PlatformCaller, session: WriteSession, platform: PlatformDep, job_id: str) -> GivenUpJob:
    """Runs a failed job again, immediately. Returns its state before that."""
    return await service.try_again(session, caller, job_id, now=platform.now())
