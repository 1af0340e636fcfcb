"""People who chat in the browser: by the session's cookie, counted by who they are, cut when they are out."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from link_agent import LinkAgent, answer
from modelshare.server.accounts import members, sessions
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE
from modelshare.server.router import in_flight
from modelshare.wire.link import Chunk, End, Head, Request
from persons import join, new_person, sign_in
from served import wait_until
from server.router.conftest import Endpoint
from server.router.test_revoked import error_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@pytest.fixture
async def ada(app: Application, endpoint: Endpoint) -> Person:
    person = await new_person(app, "ada")
    await join(app, person, endpoint.tenant.project.id, MemberRole.MEMBER)
    return person


@pytest.fixture
async def token(app: Application, ada: Person) -> str:
    return await sign_in(app, ada)


@pytest.fixture
async def page(endpoint: Endpoint, token: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=endpoint.base_url,
        cookies={SESSION_COOKIE: token},
        headers={"Sec-Fetch-Site": "same-origin"},
    ) as http:
        yield http


async def test_a_person_chats_and_is_counted(
    page: httpx.AsyncClient, endpoint: Endpoint, ready: LinkAgent, ada: Person
) -> None:
    async def reply(agent: LinkAgent, request: Request, _: bytes) -> None:
        await agent.send(answer(request, b'{"id": 1}', tokens=(3, 8)))

    ready.handler = reply
    assert (await page.post("/chat/completions", content=b"{}")).json() == {"id": 1}
    assert (await endpoint.chat()).status_code == 200
    (key,) = (await endpoint.tenant.http.get("/v1/keys")).json()["data"]

    async def counted() -> bool:
        rows = (await endpoint.tenant.http.get("/v1/usage", params={"group_by": "key"})).json()["data"]
        return {row["key"]: row["requests"] for row in rows} == {f"person:{ada.id}": 1, key["id"]: 1}

    await wait_until(counted)


async def begin(http: httpx.AsyncClient, agent: LinkAgent) -> tuple[httpx.Response, Request]:
    """A stream whose first event is there."""
    asked = asyncio.ensure_future(
        http.send(http.build_request("POST", "/chat/completions", content=b"{}"), stream=True)
    )
    request, _ = await agent.request()
    await agent.send(Head(request.stream, 200, "text/event-stream"))
    await agent.send(Chunk(request.stream, b"data: 1\n\n"))
    return await asked, request


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut is cut by the notification, not by the look twice a second."""
    monkeypatch.setattr(in_flight, "CHECK_SECONDS", 60)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("how", ["removed", "signed out"])
async def test_who_is_out_is_cut_off(
    app: Application, page: httpx.AsyncClient, endpoint: Endpoint, ready: LinkAgent, ada: Person, token: str,
    how: str,
) -> None:  # fmt: skip
    streamed, _ = await begin(page, ready)
    boss = await new_person(app, "boss")
    await join(app, boss, endpoint.tenant.project.id)
    book = app.platform.sessions
    caller = await book.caller(await sign_in(app, boss), endpoint.tenant.project.id)
    assert caller is not None
    async with app.database.write() as session:
        if how == "removed":
            await members.remove(session, caller, ada.id, now=1000)
        else:
            await sessions.close_session(session, token)
    error = error_of(await streamed.aread())
    assert error["type"] == "authentication_error"
    assert "membership" in error["message"]


async def test_a_change_that_takes_nothing_away_cuts_nobody_off(
    app: Application, page: httpx.AsyncClient, ready: LinkAgent, ada: Person, token: str
) -> None:
    streamed, request = await begin(page, ready)
    async with app.database.write() as session:
        await sessions.close_all(session, ada.id, except_token=token)
    await app.database.dropped()
    await ready.send(End(request.stream, None, 3, 8))
    assert await streamed.aread() == b"data: 1\n\n"
