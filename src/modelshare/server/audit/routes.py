"""`/v1/audit`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from modelshare.server.audit import service
from modelshare.server.http import Caller, PagingDep, ProjectRoute, ReadSession, get_platform
from modelshare.wire.base import Page
from modelshare.wire.keys import Scope
from modelshare.wire.usage import AuditEntry, AuditFilter

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=ProjectRoute)


@router.get("")
async def list_audit(
    request: Request, session: ReadSession, paging: PagingDep, where: Annotated[AuditFilter, Query()]
) -> Page[AuditEntry]:
    """Who did what, newest first; refusals included. A platform key sees what was done on the platform itself.

    `action` is one such as `model.share`, or a subject such as `model` for all that is done to models. `actor` and
    `target` are as entries have them; a model of the project may be named, such as `model:owner/name`.
    Needs the scope `keys`: whoever hands out keys may know what was done with them.
    """
    caller: Caller = request.state.caller
    caller.check(Scope.KEYS)
    where = await service.by_id(get_platform(request), caller, where)
    return await service.page(session, caller.project_id, where, paging)
