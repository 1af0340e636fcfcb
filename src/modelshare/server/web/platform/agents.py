"""Shared agents and the join keys they come by."""

from typing import Annotated, Final

from fastapi import APIRouter, Form, Request, Response

from modelshare.server.fleet import service as fleet
from modelshare.server.http import BaseUrl, Paging, PagingDep, PlatformDep, ReadSession, WriteSession
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.server.web.dependencies import TiersDep
from modelshare.server.web.page_auth import AdminCaller
from modelshare.server.web.pages import PageRoute, parse_form, redirect_after_form, render, show_once
from modelshare.wire.agents import AgentPatch, JoinKeyCreate
from modelshare.wire.tiers import SELF_HOSTED, Tier

router = APIRouter(prefix="/agents", route_class=PageRoute)
Text = Annotated[str, Form(max_length=4096)]
_HERE: Final = "/dashboard/-/platform/agents"
_JOIN_KEYS: Final = 50
"""That are shown, the newest ones."""
_HOUR: Final = 3600
_EXPIRIES: Final = (
    (str(_HOUR), "After an hour"),
    (str(24 * _HOUR), "After a day"),
    (str(7 * 24 * _HOUR), "After a week"),
    ("", "Never"),
)


@router.get("")
async def agents(request: Request, caller: AdminCaller, session: ReadSession, paging: PagingDep) -> Response:
    return render(
        request,
        "platform/agents.html",
        agents=await fleet.list_agents(session, caller, paging),
        join_keys=(await fleet.list_join_keys(session, caller, Paging(_JOIN_KEYS, None))).data,
    )


@router.get("/join")
async def join_key_page(request: Request, _: AdminCaller, tiers: TiersDep) -> Response:
    return render(request, "platform/new_join_key.html", tiers=_shared(tiers), expiries=_EXPIRIES)


@router.post("/join")
async def new_join_key(
    request: Request,
    caller: AdminCaller,
    session: WriteSession,
    platform: PlatformDep,
    tiers: TiersDep,
    base_url: BaseUrl,
    name: Text,
    chosen: Annotated[list[str], Form(alias="tiers", default_factory=list)],
    expires_in: Text = "",
) -> Response:
    spec = parse_form(JoinKeyCreate, name=name.strip(), tiers=chosen, expires_in=expires_in)
    if not expires_in:  # "never" was chosen; what is not sent would be a day
        spec = spec.model_copy(update={"expires_in": None})
    key = await fleet.create_join_key(session, caller, spec, tiers, now=platform.now())
    return show_once(request, "platform/join_key_shown.html", key=key, base_url=base_url)


@router.post("/join/{key_id}/revoke")
async def revoke_join_key(
    request: Request, caller: AdminCaller, session: WriteSession, platform: PlatformDep, key_id: str
) -> Response:
    await fleet.revoke_join_key(session, caller, key_id, now=platform.now())
    return redirect_after_form(request, _HERE, "Join key revoked. No more agents can enrol with it.")


@router.get("/{agent_id}/suspend")
async def suspend_page(request: Request, caller: AdminCaller, session: ReadSession, agent_id: str) -> Response:
    agent = await fleet.get_agent(session, caller, agent_id)
    return render(request, "platform/suspend_agent.html", agent=agent)


@router.post("/{agent_id}/suspend")
async def suspend(
    request: Request,
    caller: AdminCaller,
    session: WriteSession,
    platform: PlatformDep,
    agent_id: str,
    suspended: Annotated[bool, Form()] = True,
) -> Response:
    """Also how it is resumed."""
    agent = await fleet.change_agent(session, caller, agent_id, AgentPatch(suspended=suspended), now=platform.now())
    return redirect_after_form(request, _HERE, f"{agent.name} is {'suspended' if suspended else 'resumed'}.")


@router.get("/{agent_id}/remove")
async def remove_page(request: Request, caller: AdminCaller, session: ReadSession, agent_id: str) -> Response:
    agent = await fleet.get_agent(session, caller, agent_id)
    return render(request, "platform/remove_agent.html", agent=agent)


@router.post("/{agent_id}/remove")
async def remove(
    request: Request, caller: AdminCaller, session: WriteSession, platform: PlatformDep, agent_id: str
) -> Response:
    await fleet.remove_agent(session, caller, agent_id, now=platform.now())
    return redirect_after_form(request, _HERE, "Agent removed.")


def _shared(tiers: TierRegistry) -> list[Tier]:
    return [tier for tier in tiers if tier.slug != SELF_HOSTED]
