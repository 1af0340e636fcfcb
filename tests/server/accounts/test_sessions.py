"""Sessions: who is signed in, remembered for a second and forgotten at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from clock import Clock
from conftest import Tenant
from modelshare.server.accounts import members, people, sessions
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.accounts.sessions import SessionAuthenticator, SessionUse
from modelshare.server.app import Application
from modelshare.server.cache import CACHE_SECONDS
from modelshare.server.db import Database
from modelshare.server.ids import secret_hash
from modelshare.server.settings import Settings
from modelshare.wire.keys import Scope
from persons import join, new_person, sign_in
from served import wait_until
from slow_database import SlowDatabase

pytestmark = pytest.mark.anyio
DAY = 24 * 3600


@pytest.fixture
def book(app: Application) -> SessionAuthenticator:
    return app.platform.sessions


async def close(app: Application, token: str) -> None:
    async with app.database.write() as session:
        await sessions.close_session(session, token)


async def test_a_session_is_a_person_until_it_is_closed(app: Application, book: SessionAuthenticator) -> None:
    person = await new_person(app, "ada")
    first, second = await sign_in(app, person), await sign_in(app, person)
    assert first.startswith("mss_")
    assert await book.person(first) == await book.person(second) == person
    await close(app, first)
    assert await book.person(first) is None
    assert await book.person(second) == person
    await close(app, first)  # once more does no harm
    assert await book.person("mss_nonsense") is None


async def test_the_token_is_stored_nowhere(app: Application) -> None:
    token = await sign_in(app, await new_person(app, "ada"))
    async with app.database.read() as session:
        rows = (await session.execute(text("SELECT * FROM sessions"))).all()
    assert secret_hash(token) in str(rows)
    assert token not in str(rows)


async def test_after_thirty_days_it_is_over_and_swept(
    app: Application, book: SessionAuthenticator, clock: Clock
) -> None:
    person = await new_person(app, "ada")
    old = await sign_in(app, person)
    clock.now += 30 * DAY - 2
    young = await sign_in(app, person)
    assert await book.person(old) == person
    clock.now += 2
    assert await book.person(old) is None
    await app.chores.do_all()
    async with app.database.read() as session:
        assert (await session.execute(text("SELECT count(*) FROM sessions"))).scalar_one() == 1
    assert await book.person(young) == person


async def test_signed_out_everywhere_else(app: Application, book: SessionAuthenticator) -> None:
    ada, eve = await new_person(app, "ada"), await new_person(app, "eve")
    here, there, hers = await sign_in(app, ada), await sign_in(app, ada), await sign_in(app, eve)
    assert [await book.person(token) for token in (here, there, hers)] == [ada, ada, eve]
    async with app.database.write() as session:
        await sessions.close_all(session, ada.id, except_token=here)
    assert [await book.person(token) for token in (here, there, hers)] == [ada, None, eve]
    async with app.database.write() as session:
        await sessions.close_all(session, ada.id)
    assert [await book.person(token) for token in (here, there, hers)] == [None, None, eve]


async def test_a_new_name_is_known_at_once(app: Application, book: SessionAuthenticator) -> None:
    person = await new_person(app, "ada")
    token = await sign_in(app, person)
    assert await book.person(token) == person
    async with app.database.write() as session:
        renamed = await people.rename(session, person, " Ada Lovelace ")
    assert renamed.name == "Ada Lovelace"
    assert await book.person(token) == renamed


async def test_what_somebody_is_in_projects(
    app: Application, book: SessionAuthenticator, owner: Tenant, deployer: Tenant
) -> None:
    person = await new_person(app, "ada")
    token = await sign_in(app, person)
    assert await book.caller(token, "acme") is None  # this is remembered, and forgotten
    await join(app, person, owner.project.id, MemberRole.MEMBER)
    by_slug, by_id = await book.caller(token, "acme"), await book.caller(token, owner.project.id)
    assert by_slug is not None
    assert by_slug == by_id
    assert (by_slug.project_id, by_slug.project_slug) == (owner.project.id, "acme")
    assert by_slug.actor == f"person:{person.id}"
    assert not by_slug.is_platform
    assert by_slug.scopes == {Scope.MODELS, Scope.ENDPOINTS, Scope.AGENTS, Scope.INFERENCE}
    for project in ("borg", deployer.project.id, "nowhere", "proj_000000000000"):
        assert await book.caller(token, project) is None


async def test_an_admin_acts_in_any_project_as_an_owner(
    app: Application, book: SessionAuthenticator, owner: Tenant
) -> None:
    person = await new_person(app, "root", is_admin=True)
    token = await sign_in(app, person)
    caller = await book.caller(token, "acme")
    assert caller is not None
    assert (caller.scopes, caller.is_platform) == (frozenset(), False)
    assert await book.caller(token, "nowhere") is None
    everywhere = people.platform_caller(person)
    assert (everywhere.is_platform, everywhere.project_id) == (True, None)
    other = await new_person(app, "second", is_admin=True)
    async with app.database.write() as session:
        await people.set_admin(session, people.platform_caller(other), person.id, is_admin=False, now=1000)
    assert await book.caller(token, "acme") is None


async def test_a_look_that_began_before_is_not_believed_after(
    app: Application, owner: Tenant, settings: Settings
) -> None:
    person = await new_person(app, "ada")
    await join(app, person, owner.project.id)
    token = await sign_in(app, person)
    slow = SlowDatabase(settings.database)
    book = SessionAuthenticator(slow, app.platform.clock)
    with slow.held() as held:
        asked = asyncio.ensure_future(book.person(token))
        await held.wait()
        async with slow.write() as session:
            await sessions.close_session(session, token)
    assert await asked is None
    await slow.close()


async def test_uses_that_are_over(
    app: Application, book: SessionAuthenticator, owner: Tenant, deployer: Tenant, clock: Clock
) -> None:
    member, late = await new_person(app, "ada"), await new_person(app, "late")
    admin = await new_person(app, "admin", is_admin=True)
    await join(app, member, owner.project.id)
    await join(app, late, owner.project.id)
    late_token = await sign_in(app, late)
    clock.now += 29 * DAY
    tokens = {person.name: await sign_in(app, person) for person in (member, admin)} | {"Late": late_token}
    clock.now += DAY
    uses = {
        (name, project): SessionUse(secret_hash(token), project)
        for name, token in tokens.items()
        for project in (owner.project.id, deployer.project.id)
    }
    over = await book.revoked_among(uses.values())
    assert {name for name, use in uses.items() if use not in over} == {
        ("Ada", owner.project.id),
        ("Admin", owner.project.id),
        ("Admin", deployer.project.id),
    }


@pytest.fixture
async def elsewhere(app: Application, settings: Settings) -> AsyncIterator[SessionAuthenticator]:
    """Another process's, which hears what is notified."""
    database = Database(settings.database)
    await database.start()
    yield SessionAuthenticator(database, app.platform.clock)
    await database.close()


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_what_is_taken_away_here_is_refused_elsewhere(
    app: Application, owner: Tenant, elsewhere: SessionAuthenticator
) -> None:
    """The clock stands still: nothing is forgotten but what was told."""
    person = await new_person(app, "ada")
    boss = await new_person(app, "boss")
    await join(app, person, owner.project.id)
    await join(app, boss, owner.project.id)
    token, bosses = await sign_in(app, person), await sign_in(app, boss)
    caller = await elsewhere.caller(bosses, "acme")
    assert caller is not None
    assert await elsewhere.caller(token, "acme")

    async def demoted() -> bool:
        seen = await elsewhere.caller(token, "acme")
        return seen is not None and not seen.allows(Scope.KEYS)

    async def outside() -> bool:
        return await elsewhere.caller(token, "acme") is None and await elsewhere.person(token) == person

    async def signed_out() -> bool:
        return await elsewhere.person(token) is None

    async with app.database.write() as session:
        await members.change_role(session, caller, person.id, MemberRole.MEMBER, now=1000)
    await wait_until(demoted)
    async with app.database.write() as session:
        await members.remove(session, caller, person.id, now=1000)
    await wait_until(outside)
    await close(app, token)
    await wait_until(signed_out)


async def test_what_a_lost_notification_would_have_told_is_seen_after_a_second(
    app: Application, settings: Settings, clock: Clock
) -> None:
    deaf = Database(settings.database)  # it does not listen, so that not even a late notification reaches it
    book = SessionAuthenticator(deaf, app.platform.clock)
    person = await new_person(app, "ada")
    token = await sign_in(app, person)
    assert await book.person(token) == person
    await close(app, token)
    assert await book.person(token) == person
    clock.now += CACHE_SECONDS
    assert await book.person(token) is None
    await deaf.close()
