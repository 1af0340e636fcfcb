"""`/v1/audit`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from modelshare.server.audit import service
from modelshare.server.http import Caller, ProjectRoute, ReadSession, get_platform
from modelshare.server.paging import PagingDep
from modelshare.wire.base import Page
from modelshare.wire.keys import Scope
from modelshare.wire.usage import AuditEntry, AuditFilter

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=ProjectRoute)


@router.get("")
async def list_audit(
    request: Request, session: ReadSession, paging: PagingDep, where: Annotated[AuditFilter, Query()]
) -> Page[AuditEntry]:
    """Lists who did what, newest first, including refused actions. With a platform key, lists actions on the platform
    itself.

    `action` is an action such as `model.share`, or a subject such as `model` for all actions on models. `actor` and
    `target` have the form that entries show; a model of the project can also be named, such as `model:owner/name`.
    Needs the scope `keys`: a key that can create keys can see what was done with them.
    """
    caller: Caller = request.state.caller
    caller.check(Scope.KEYS)
    where = await service.by_id(get_platform(request), caller, where)
    return await service.page(session, caller.project_id, where, paging)
