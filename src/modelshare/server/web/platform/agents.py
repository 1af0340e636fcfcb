"""Pages of shared agents and their join keys."""

from typing import Annotated, Final

from fastapi import APIRouter, Form, Response

from modelshare.server.fleet import service as fleet
from modelshare.server.paging import Paging, PagingDep
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.agents import join_key_form
from modelshare.server.web.context import AdminPage, Text
from modelshare.server.web.pages import PageRoute
from modelshare.wire.agents import AgentPatch
from modelshare.wire.tiers import SELF_HOSTED, Tier

router = APIRouter(prefix="/agents", route_class=PageRoute)
_HERE: Final = "/dashboard/-/platform/agents"
_JOIN_KEYS: Final = 50
"""Newest join keys that are shown."""
_HOUR: Final = 3600
_EXPIRIES: Final = (
    (str(_HOUR), "After an hour"),
    (str(24 * _HOUR), "After a day"),
    (str(7 * 24 * _HOUR), "After a week"),
    ("", "Never"),
)


@router.get("")
async def agents(page: AdminPage, paging: PagingDep) -> Response:
    return page.render(
        "platform/agents.html",
        agents=await fleet.list_agents(page.session, page.caller, paging),
        join_keys=(await fleet.list_join_keys(page.session, page.caller, Paging(_JOIN_KEYS))).data,
    )


@router.get("/join")
async def join_key_page(page: AdminPage) -> Response:
    return page.render("platform/new_join_key.html", tiers=_shared(page.platform.tiers), expiries=_EXPIRIES)


@router.post("/join")
async def new_join_key(
    page: AdminPage,
    name: Text,
    chosen: Annotated[list[str], Form(alias="tiers", default_factory=list)],
    expires_in: Text = "",
) -> Response:
    spec = join_key_form(name=name.strip(), tiers=chosen, expires_in=expires_in)
    key = await fleet.create_join_key(page.session, page.caller, spec, page.platform.tiers, now=page.now)
    return page.show_once("platform/join_key_shown.html", key=key, base_url=page.base_url)


@router.post("/join/{key_id}/revoke")
async def revoke_join_key(page: AdminPage, key_id: str) -> Response:
    await fleet.revoke_join_key(page.session, page.caller, key_id, now=page.now)
    return page.redirect(_HERE, "Join key revoked. No more agents can enrol with it.")


@router.get("/{agent_id}/suspend")
async def suspend_page(page: AdminPage, agent_id: str) -> Response:
    agent = await fleet.get_agent(page.session, page.caller, agent_id)
    return page.render("platform/suspend_agent.html", agent=agent)


@router.post("/{agent_id}/suspend")
async def suspend(page: AdminPage, agent_id: str, suspended: Annotated[bool, Form()] = True) -> Response:
    """Suspends or resumes an agent."""
    agent = await fleet.change_agent(page.session, page.caller, agent_id, AgentPatch(suspended=suspended), now=page.now)
    return page.redirect(_HERE, f"{agent.name} is {'suspended' if suspended else 'resumed'}.")


@router.get("/{agent_id}/remove")
async def remove_page(page: AdminPage, agent_id: str) -> Response:
    agent = await fleet.get_agent(page.session, page.caller, agent_id)
    return page.render("platform/remove_agent.html", agent=agent)


@router.post("/{agent_id}/remove")
async def remove(page: AdminPage, agent_id: str) -> Response:
    await fleet.remove_agent(page.session, page.caller, agent_id, now=page.now)
    return page.redirect(_HERE, "Agent removed.")


def _shared(tiers: TierRegistry) -> list[Tier]:
    return [tier for tier in tiers if tier.slug != SELF_HOSTED]
