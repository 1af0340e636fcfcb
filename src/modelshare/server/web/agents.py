"""Pages of a project's agents, with live status, and join keys."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Query, Response

from modelshare.server.fleet import service
from modelshare.server.paging import Paging
from modelshare.server.web.context import AgentsPage, ProjectContext
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.agents import AgentPatch, JoinKeyCreate

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=200)]
_LIST: Final = "/dashboard/{project}/agents"
_ONE: Final = _LIST + "/{agent_id}"
_KEYS: Final = _LIST + "/join-keys"
_PER_PAGE: Final = 50
_EXPIRY: Final = [("3600", "an hour"), ("86400", "a day"), ("604800", "a week"), ("2592000", "30 days"), ("", "never")]
"""Seconds, and their texts."""


@router.get(_LIST)
async def list_page(page: AgentsPage, after: Cursor = None, keys_after: Cursor = None) -> Response:
    return page.render(
        "dashboard/agents/list.html",
        after=after,
        expiry=_EXPIRY,
        **await _agents(page, after),
        **await _join_keys(page, keys_after),
    )


@router.get(_LIST + "/events")
async def list_events(page: AgentsPage, after: Cursor = None) -> Response:
    async def table(page: ProjectContext) -> str:
        return page.fragment("dashboard/agents/list_part.html", **await _agents(page, after))

    return page.live(table)


@router.post(_KEYS)
async def create_join_key(page: AgentsPage, name: Text, expires_in: Text = "") -> Response:
    spec = join_key_form(name=name, expires_in=expires_in)
    made = await service.create_join_key(page.session, page.caller, spec, page.platform.tiers, now=page.now)
    keys = await _join_keys(page, None)
    return page.show_once("dashboard/agents/join.html", key=made, base_url=page.base_url, **keys)


@router.get(_KEYS + "/{key_id}/revoke")
async def revoke_join_key_page(page: AgentsPage, key_id: str) -> Response:
    return page.render("dashboard/agents/revoke.html", key_id=key_id)


@router.post(_KEYS + "/{key_id}/revoke")
async def revoke_join_key(page: AgentsPage, key_id: str) -> Response:
    await service.revoke_join_key(page.session, page.caller, key_id, now=page.now)
    return page.redirect(f"{page.root}/agents", "Join key revoked. No more agents can enrol with it.")


@router.get(_ONE + "/rename")
async def rename_page(page: AgentsPage, agent_id: str) -> Response:
    agent = await service.get_agent(page.session, page.caller, agent_id)
    return page.render("dashboard/agents/rename.html", agent=agent)


@router.post(_ONE + "/rename")
async def rename(page: AgentsPage, agent_id: str, name: Text) -> Response:
    patch = parse_form(AgentPatch, name=name.strip())
    await service.change_agent(page.session, page.caller, agent_id, patch, now=page.now)
    return page.redirect(f"{page.root}/agents", "Saved.")


@router.get(_ONE + "/suspend")
async def suspend_page(page: AgentsPage, agent_id: str) -> Response:
    agent = await service.get_agent(page.session, page.caller, agent_id)
    return page.render("dashboard/agents/suspend.html", agent=agent)


@router.post(_ONE + "/suspend")
async def suspend(page: AgentsPage, agent_id: str) -> Response:
    agent = await service.change_agent(page.session, page.caller, agent_id, AgentPatch(suspended=True), now=page.now)
    return page.redirect(f"{page.root}/agents", f"{agent.name} is suspended.")


@router.post(_ONE + "/resume")
async def resume(page: AgentsPage, agent_id: str) -> Response:
    agent = await service.change_agent(page.session, page.caller, agent_id, AgentPatch(suspended=False), now=page.now)
    return page.redirect(f"{page.root}/agents", f"{agent.name} may connect again.")


@router.get(_ONE + "/remove")
async def remove_page(page: AgentsPage, agent_id: str) -> Response:
    agent = await service.get_agent(page.session, page.caller, agent_id)
    return page.render("dashboard/agents/remove.html", agent=agent)


@router.post(_ONE + "/remove")
async def remove(page: AgentsPage, agent_id: str) -> Response:
    await service.remove_agent(page.session, page.caller, agent_id, now=page.now)
    return page.redirect(f"{page.root}/agents", "Agent removed.")


def join_key_form(*, expires_in: str, **fields: Any) -> JoinKeyCreate:
    """An empty time means never, unlike in the API, where leaving it out means the default."""
    spec = parse_form(JoinKeyCreate, expires_in=expires_in, **fields)
    return spec if expires_in else spec.model_copy(update={"expires_in": None})


async def _agents(page: ProjectContext, after: str | None) -> dict[str, Any]:
    listed = await service.list_agents(page.session, page.caller, Paging(_PER_PAGE, after))
    return {"agents": listed.data, "cursor": listed.next_cursor}


async def _join_keys(page: ProjectContext, after: str | None) -> dict[str, Any]:
    listed = await service.list_join_keys(page.session, page.caller, Paging(_PER_PAGE, after))
    return {"join_keys": listed.data, "keys_cursor": listed.next_cursor}
