"""Pages of a project's machines: what each one is and does, live; join keys."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.fleet import service
from modelshare.server.http import BaseUrl, Caller, Paging, PlatformDep, ReadSession, WriteSession
from modelshare.server.web.dependencies import LiveDep, TiersDep
from modelshare.server.web.live_parts import watched
from modelshare.server.web.page_auth import AgentsCaller, ProjectDep
from modelshare.server.web.pages import PageRoute, fragment, parse_form, redirect_after_form, render, show_once
from modelshare.wire.agents import AgentPatch, JoinKeyCreate
from modelshare.wire.keys import Project, Scope

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form(max_length=200)]
Cursor = Annotated[str | None, Query(max_length=200)]
_LIST: Final = "/dashboard/{project}/agents"
_ONE: Final = _LIST + "/{agent_id}"
_KEYS: Final = _LIST + "/join-keys"
_PER_PAGE: Final = 50
_EXPIRY: Final = [("3600", "an hour"), ("86400", "a day"), ("604800", "a week"), ("2592000", "30 days"), ("", "never")]
"""Seconds, and how they are said."""


@router.get(_LIST)
async def list_page(
    request: Request,
    caller: AgentsCaller,
    project: ProjectDep,
    session: ReadSession,
    after: Cursor = None,
    keys_after: Cursor = None,
) -> Response:
    return render(
        request,
        "dashboard/agents/list.html",
        after=after,
        expiry=_EXPIRY,
        **await _agents(session, caller, project, after),
        **await _join_keys(session, caller, keys_after),
    )


@router.get(_LIST + "/events")
async def list_events(
    request: Request,
    viewer: AgentsCaller,
    project: ProjectDep,
    platform: PlatformDep,
    live: LiveDep,
    after: Cursor = None,
) -> Response:
    async def table(session: AsyncSession, caller: Caller) -> str:
        listed = await _agents(session, caller, project, after)
        return fragment("dashboard/agents/list_part.html", now=platform.now(), **listed)

    return live.stream(viewer.id, watched(request, project, Scope.AGENTS, table))


@router.post(_KEYS)
async def create_join_key(
    request: Request,
    caller: AgentsCaller,
    session: WriteSession,
    platform: PlatformDep,
    tiers: TiersDep,
    base_url: BaseUrl,
    name: Text,
    expires_in: Text = "",
) -> Response:
    spec = parse_form(JoinKeyCreate, name=name, expires_in=expires_in) if expires_in else _endless(name)
    made = await service.create_join_key(session, caller, spec, tiers, now=platform.now())
    keys = await _join_keys(session, caller, None)
    return show_once(request, "dashboard/agents/join.html", key=made, base_url=base_url, **keys)


@router.get(_KEYS + "/{key_id}/revoke")
async def revoke_join_key_page(request: Request, _: AgentsCaller, key_id: str) -> Response:
    return render(request, "dashboard/agents/revoke.html", key_id=key_id)


@router.post(_KEYS + "/{key_id}/revoke")
async def revoke_join_key(
    request: Request,
    caller: AgentsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    key_id: str,
) -> Response:
    await service.revoke_join_key(session, caller, key_id, now=platform.now())
    return redirect_after_form(request, _url(project), "Join key revoked. No more agents can enrol with it.")


@router.get(_ONE + "/rename")
async def rename_page(request: Request, caller: AgentsCaller, session: ReadSession, agent_id: str) -> Response:
    agent = await service.get_agent(session, caller, agent_id)
    return render(request, "dashboard/agents/rename.html", agent=agent)


@router.post(_ONE + "/rename")
async def rename(
    request: Request,
    caller: AgentsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    agent_id: str,
    name: Text,
) -> Response:
    patch = parse_form(AgentPatch, name=name.strip())
    await service.change_agent(session, caller, agent_id, patch, now=platform.now())
    return redirect_after_form(request, _url(project), "Saved.")


@router.get(_ONE + "/suspend")
async def suspend_page(request: Request, caller: AgentsCaller, session: ReadSession, agent_id: str) -> Response:
    agent = await service.get_agent(session, caller, agent_id)
    return render(request, "dashboard/agents/suspend.html", agent=agent)


@router.post(_ONE + "/suspend")
async def suspend(
    request: Request,
    caller: AgentsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    agent_id: str,
) -> Response:
    agent = await service.change_agent(session, caller, agent_id, AgentPatch(suspended=True), now=platform.now())
    return redirect_after_form(request, _url(project), f"{agent.name} is suspended.")


@router.post(_ONE + "/resume")
async def resume(
    request: Request,
    caller: AgentsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    agent_id: str,
) -> Response:
    agent = await service.change_agent(session, caller, agent_id, AgentPatch(suspended=False), now=platform.now())
    return redirect_after_form(request, _url(project), f"{agent.name} may connect again.")


@router.get(_ONE + "/remove")
async def remove_page(request: Request, caller: AgentsCaller, session: ReadSession, agent_id: str) -> Response:
    agent = await service.get_agent(session, caller, agent_id)
    return render(request, "dashboard/agents/remove.html", agent=agent)


@router.post(_ONE + "/remove")
async def remove(
    request: Request,
    caller: AgentsCaller,
    project: ProjectDep,
    session: WriteSession,
    platform: PlatformDep,
    agent_id: str,
) -> Response:
    await service.remove_agent(session, caller, agent_id, now=platform.now())
    return redirect_after_form(request, _url(project), "Agent removed.")


def _endless(name: str) -> JoinKeyCreate:
    """Leaving the time out would take the default."""
    return parse_form(JoinKeyCreate, name=name).model_copy(update={"expires_in": None})


async def _agents(session: AsyncSession, caller: Caller, project: Project, after: str | None) -> dict[str, Any]:
    listed = await service.list_agents(session, caller, Paging(_PER_PAGE, after))
    return {"agents": listed.data, "cursor": listed.next_cursor, "root": f"/dashboard/{project.slug}"}


async def _join_keys(session: AsyncSession, caller: Caller, after: str | None) -> dict[str, Any]:
    listed = await service.list_join_keys(session, caller, Paging(_PER_PAGE, after))
    return {"join_keys": listed.data, "keys_cursor": listed.next_cursor}


def _url(project: Project) -> str:
    return f"/dashboard/{project.slug}/agents"
