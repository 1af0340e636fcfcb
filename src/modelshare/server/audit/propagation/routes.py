"""`/v1/platform/processes`."""

from fastapi import APIRouter

from modelshare.server.audit.propagation import service
from modelshare.server.http import PlatformCaller, ProjectRoute, ReadSession
from modelshare.server.paging import PagingDep
from modelshare.wire.base import Page
from modelshare.wire.usage import Process

router = APIRouter(prefix="/v1/platform/processes", tags=["platform"], route_class=ProjectRoute)


@router.get("")
async def list_processes(_: PlatformCaller, session: ReadSession, paging: PagingDep) -> Page[Process]:
    """Lists the running server processes, oldest first. The audit log shows which of them have confirmed a change."""
    return await service.page(session, paging)
