"""People with a browser each, and a project of one of them."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Any, Protocol

import httpx
import pytest

from conftest import client_of
from modelshare.server.accounts import invitations, passwords, people
from modelshare.server.app import Application
from modelshare.server.http import SESSION_COOKIE
from persons import new_person, sign_in

PASSWORD = "a quiet walk home"
ON_BOTH_DATABASES = pytest.mark.parametrize("lend", ["sqlite", "postgres"], indirect=True)
"""Of each file of pages the test that asks most of the database."""


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pages show what is tested on both databases elsewhere: SQLite will do, but for `ON_BOTH_DATABASES`."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "lend" in metafunc.fixturenames and not any(mark.args[0] == "lend" for mark in marks):
        metafunc.definition.add_marker(pytest.mark.parametrize("lend", ["sqlite"], indirect=True))


@dataclass(frozen=True)
class Somebody:
    """A person who is signed in, and their browser."""

    name: str
    email: str
    http: httpx.AsyncClient

    async def get(self, url: str) -> httpx.Response:
        return await self.http.get(url)

    async def post(self, url: str, /, **fields: Any) -> httpx.Response:
        """Sends a form."""
        return await self.http.post(url, data=fields)


class SignUp(Protocol):
    async def __call__(self, name: str, invitation: str = "") -> Somebody: ...


@asynccontextmanager
async def browser_of(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """A client that says of itself what a browser does when a page of the platform sends a form."""
    async with client_of(app) as http:
        http.headers.update({"Sec-Fetch-Site": "same-origin", "Accept": "text/html"})
        yield http


@pytest.fixture
async def browser(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """Of somebody who is not signed in."""
    async with browser_of(app) as http:
        yield http


@pytest.fixture(scope="session")
async def password_hash() -> str:
    """Of `PASSWORD`, made once: making one is slow on purpose."""
    return await passwords.hash_password(PASSWORD)


@pytest.fixture
async def sign_up(app: Application, password_hash: str) -> AsyncIterator[SignUp]:
    """Has somebody new sign up, in a browser of their own; their password is `PASSWORD`."""
    async with AsyncExitStack() as browsers:

        async def signed_up(name: str, invitation: str = "") -> Somebody:
            http = await browsers.enter_async_context(browser_of(app))
            async with app.database.read() as session:
                is_first = not await people.any_exist(session)
            person = await new_person(app, name.lower(), hashed=password_hash, is_admin=is_first)
            if invitation:
                async with app.database.write() as session:
                    await invitations.accept(session, person, invitation, now=app.platform.now())
            http.cookies.set(SESSION_COOKIE, await sign_in(app, person))
            return Somebody(name, person.email, http)

        yield signed_up


@pytest.fixture
async def person(sign_up: SignUp) -> Somebody:
    """The first one: the platform's admin."""
    return await sign_up("Ada")


@pytest.fixture
async def colleague(person: Somebody, sign_up: SignUp) -> Somebody:
    """Somebody else, who looks after nothing."""
    return await sign_up("Ben")


@pytest.fixture
async def stranger(person: Somebody, sign_up: SignUp) -> Somebody:
    """Somebody who is in no project of the others."""
    return await sign_up("Eve")


@pytest.fixture
async def project(colleague: Somebody) -> str:
    """Slug of a project that the colleague owns."""
    return await new_project(colleague, "labs")


@pytest.fixture
async def member(colleague: Somebody, project: str, sign_up: SignUp) -> Somebody:
    """A plain member of the project."""
    answer = await colleague.post(f"/dashboard/{project}/members/invitations", role="member")
    return await sign_up("Mia", invitation=token_in(answer))


async def new_project(owner: Somebody, slug: str) -> str:
    answer = await owner.post("/dashboard/-/new", name=slug.title(), slug=slug)
    assert answer.headers["location"] == f"/dashboard/{slug}/models", answer.text
    return slug


def token_in(answer: httpx.Response) -> str:
    """Of the invitation's link that the page shows."""
    found = re.search(r"/join\?token=([\w-]+)", unescape(answer.text))
    assert found, answer.text
    return found[1]
