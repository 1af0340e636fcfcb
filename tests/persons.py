"""Signed-in people for tests, without hashing passwords."""

import httpx

from modelshare.server.accounts import members, people, sessions
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE

NO_HASH = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$nobody/knows/a/password/for/this/one/hash/it/is"


async def new_person(app: Application, name: str, *, hashed: str = NO_HASH, is_admin: bool = False) -> Person:
    """Creates a person with the email `<name>@example.org`. Even the first one is no admin unless requested."""
    async with app.database.write() as session:
        person = await people.sign_up(
            session,
            email=f"{name}@example.org",
            name=name.title(),
            password_hash=hashed,
            invitation=None,
            policy="open",
            now=app.platform.now(),
        )
        row = await people._own(session, person.id)
        row.is_admin = is_admin
        return Person(person.id, person.email, person.name, is_admin, person.created_at)


async def sign_up(
    app: Application, name: str, project_id: str | None = None, role: MemberRole = MemberRole.OWNER
) -> str:
    """Creates a person who is a member of the project; returns their session token."""
    person = await new_person(app, name)
    if project_id is not None:
        await join(app, person, project_id, role)
    return await sign_in(app, person)


async def join(app: Application, person: Person, project_id: str, role: MemberRole = MemberRole.OWNER) -> None:
    """Makes the person a member."""
    async with app.database.write() as session:
        await members.add(session, project_id, person, role, now=app.platform.now())


async def sign_in(app: Application, person: Person) -> str:
    """Opens a session and returns its token."""
    async with app.database.write() as session:
        return await sessions.open_session(session, person.id, app.platform.now(), days=30)


def browser(app: Application, token: str, **headers: str) -> httpx.AsyncClient:
    """An HTTP client that behaves like a page in a browser with this session.

    Headers are added or replaced (`_` for `-`).
    """
    sent = {"sec-fetch-site": "same-origin", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://modelshare.test",
        cookies={SESSION_COOKIE: token},
        headers={name: value for name, value in sent.items() if value},
    )


def browser_of(app: Application, token: str | None) -> httpx.AsyncClient:
    """Like `browser`, but for navigation, and without a session if there is no token."""
    http = browser(app, token or "", accept="text/html")
    if token is None:
        http.cookies.clear()
    return http
