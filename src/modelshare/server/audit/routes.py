"""`/v1/audit`."""

from fastapi import APIRouter, Request

from modelshare.server.audit import service
from modelshare.server.http import Caller, PagingDep, ProjectRoute, ReadSession
from modelshare.wire.base import Page
from modelshare.wire.keys import Scope
from modelshare.wire.usage import AuditEntry

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=ProjectRoute)


@router.get("")
async def list_audit(request: Request, session: ReadSession, paging: PagingDep) -> Page[AuditEntry]:
    """Who did what, newest first; refusals included. A platform key sees what was done on the platform itself.

    Needs the scope `keys`: whoever hands out keys may know what was done with them.
    """
    caller: Caller = request.state.caller
    caller.check(Scope.KEYS)
    return await service.page(session, caller.project_id, paging)
