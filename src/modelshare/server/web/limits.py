"""The page of limits: what is left of them now, and the project's budget of the month."""

from typing import Final

from fastapi import APIRouter, Response

from modelshare.server.accounts import service as accounts
from modelshare.server.paging import PagingDep
from modelshare.server.router import remaining
from modelshare.server.web.context import EndpointsPage, OwnerPage, Text
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.keys import ProjectSettings, Scope
from modelshare.wire.limits import LimitKind

router = APIRouter(prefix="/dashboard/{project}/limits", route_class=PageRoute, include_in_schema=False)
_WORDS: Final = {
    LimitKind.REQUESTS_PER_MINUTE: "requests per minute",
    LimitKind.TOKENS_PER_MINUTE: "tokens per minute",
    LimitKind.CONCURRENT_REQUESTS: "requests at once",
    LimitKind.MONTHLY_TOKENS: "tokens this month",
    LimitKind.MONTHLY_BUDGET: "money this month",
}


@router.get("")
async def limits(page: EndpointsPage, paging: PagingDep) -> Response:
    project = await accounts.own_project(page.session, page.caller)
    return page.render(
        "dashboard/limits.html",
        limits=await remaining.page(page.session, page.platform, page.caller, paging),
        budgets=await remaining.strained_budgets(page.session, page.platform, page.caller),
        words=_WORDS,
        budget="" if project.monthly_budget is None else f"{project.monthly_budget:g}",
        may_change=page.caller.allows(Scope.KEYS),
    )


@router.post("/budget")
async def change_budget(page: OwnerPage, monthly_budget: Text = "") -> Response:
    budget = parse_form(ProjectSettings, monthly_budget=monthly_budget.strip()).monthly_budget
    changes = ProjectSettings(monthly_budget=budget)  # an empty field takes the budget away
    await accounts.change_settings(page.session, page.caller, changes, now=page.now)
    return page.redirect(f"{page.root}/limits", "Budget removed." if budget is None else "Budget saved.")
