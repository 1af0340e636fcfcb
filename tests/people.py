"""People with sessions, as browsers send them."""

import httpx

from modelshare.server.accounts import members, people, sessions
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.accounts.views import Person
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE


async def sign_up(
    app: Application, name: str, project_id: str | None = None, role: MemberRole = MemberRole.OWNER
) -> str:
    """Somebody new who is no admin, a member of the project; their session's token."""
    async with app.database.read() as session:
        is_first = not await people.are_there(session)
    if is_first:
        await _new(app, "admin")  # the first person runs the platform, and sees everything
    person, now = await _new(app, name), app.platform.now()
    async with app.database.write() as session:
        if project_id:
            await members.add(session, project_id, person, role, now=now)
        return await sessions.open_session(session, person.id, now, days=1)


def browser_of(app: Application, token: str | None) -> httpx.AsyncClient:
    """A client that sends what a browser does from the platform's own pages."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://modelshare.test",
        headers={"Sec-Fetch-Site": "same-origin", "Accept": "text/html"},
        cookies={SESSION_COOKIE: token} if token else None,
    )


async def _new(app: Application, name: str) -> Person:
    async with app.database.write() as session:
        return await people.sign_up(
            session,
            email=f"{name}@example.org",
            name=name.title(),
            password_hash="none",
            invitation=None,
            policy="open",
            now=app.platform.now(),
        )
