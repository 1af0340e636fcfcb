"""People sign up: the first is the platform's admin, others may need an invitation."""

import asyncio
from typing import Any

import pytest

from conftest import Tenant
from modelshare.server.accounts import invitations, members, people
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.app import Application
from modelshare.server.audit import service as audit
from modelshare.server.db import Database
from modelshare.server.errors import ApiError, ConflictError, InvalidRequestError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.wire.usage import AuditFilter
from persons import NO_HASH, new_person

pytestmark = pytest.mark.anyio


async def sign_up(database: Database, email: str = "ada@example.org", **given: Any) -> Person:
    fields = {"name": "Ada", "password_hash": NO_HASH, "invitation": None, "policy": "open", "now": 1000, **given}
    async with database.write() as session:
        return await people.sign_up(session, email=email, **fields)


async def invite(app: Application, tenant: Tenant, role: MemberRole = MemberRole.MEMBER) -> str:
    caller = await app.platform.authenticate(tenant.project.api_key, "")
    assert caller is not None
    async with app.database.write() as session:
        return (await invitations.invite(session, caller, role, now=app.platform.now()))[1]


async def test_the_first_person_is_admin_and_nobody_after(app: Application) -> None:
    first = await sign_up(app.database, "First@Example.org", policy="invite_only")
    assert (first.email, first.is_admin) == ("first@example.org", True)
    assert not (await sign_up(app.database, "second@example.org")).is_admin
    async with app.database.read() as session:
        log = (await audit.page(session, None, AuditFilter(), Paging(10, None))).data
    assert [entry.action for entry in log] == ["person.sign_up", "person.set_admin", "person.sign_up"]


async def test_of_many_who_are_first_at_once_one_is_admin(app: Application) -> None:
    """On PostgreSQL from two processes; a SQLite database is one process's."""
    other = app.database if app.database.is_sqlite else Database(app.settings.database)
    try:
        found = await asyncio.gather(*(sign_up((app.database, other)[n % 2], f"p{n}@example.org") for n in range(8)))
    finally:
        if other is not app.database:
            await other.close()
    assert sum(person.is_admin for person in found) == 1


async def test_an_email_is_one_persons(app: Application) -> None:
    await sign_up(app.database)
    with pytest.raises(ConflictError, match="Sign in") as raised:
        await sign_up(app.database, " ADA@example.org ")
    assert raised.value.param == "email"
    async with app.database.read() as session:
        page = await people.people(session, people.platform_caller(await new_admin(app)), Paging(10, None))
    assert sorted(person.email for person in page.data) == ["ada@example.org", "admin@example.org"]


async def new_admin(app: Application) -> Person:
    return await new_person(app, "admin", is_admin=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "ada"), ("email", "a b@example.org"), ("name", ""), ("name", "x" * 10_240), ("name", "A\0"),
     ("name", "Ada \u202eevil")],
)  # fmt: skip
async def test_what_does_not_fit_is_named(app: Application, field: str, value: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await sign_up(app.database, **{field: value})
    assert raised.value.param == field


async def test_a_name_that_reads_from_the_right_is_kept(app: Application) -> None:
    person = await sign_up(app.database, name="עדה לאבלייס")
    async with app.database.read() as session:
        assert await people.names(session, [person.id]) == {person.id: "עדה לאבלייס"}


async def test_an_invitation_makes_a_member(app: Application, owner: Tenant) -> None:
    token = await invite(app, owner)
    person = await sign_up(app.database, invitation=token, now=app.platform.now())
    async with app.database.read() as session:
        (membership,) = await members.memberships(session, person)
        assert await invitations.invitation(session, token, now=app.platform.now()) is None
    assert (membership.slug, membership.role) == ("acme", MemberRole.MEMBER)


async def test_where_people_are_invited_nobody_else_comes_in(app: Application, owner: Tenant) -> None:
    await new_admin(app)
    now = app.platform.now()
    for invitation in (None, "", "msi_nonsense"):
        with pytest.raises(PermissionDeniedError):
            await sign_up(app.database, invitation=invitation, policy="invite_only", now=now)
    token = await invite(app, owner)
    assert await sign_up(app.database, invitation=token, policy="invite_only", now=now)
    with pytest.raises(PermissionDeniedError):
        await sign_up(app.database, "eve@example.org", invitation=token, policy="invite_only", now=now)


async def test_strangers_do_not_learn_which_emails_are_taken_where_people_are_invited(app: Application) -> None:
    await sign_up(app.database)
    for email in ("ada@example.org", "Invalid e-mail", "eve@example.org"):
        with pytest.raises(PermissionDeniedError, match="by invitation"):
            await sign_up(app.database, email, invitation="msi_nonsense", policy="invite_only")


async def test_with_a_bad_invitation_nobody_signs_up(app: Application) -> None:
    with pytest.raises(NotFoundError, match="Ask for a new one"):
        await sign_up(app.database, invitation="msi_nonsense")
    async with app.database.read() as session:
        assert not await people.any_exist(session)


async def test_one_invitation_makes_one_person(app: Application, owner: Tenant) -> None:
    token = await invite(app, owner)
    asked = [sign_up(app.database, f"p{n}@example.org", invitation=token, now=app.platform.now()) for n in range(4)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, Person) for one in found) == 1
    assert sum(isinstance(one, NotFoundError) for one in found) == 3


async def test_signing_up_signs_in(app: Application) -> None:
    desk = app.platform.sign_in
    good: dict[str, Any] = {"email": "ada@example.org", "name": "Ada", "invitation": None, "address": "10.0.0.1"}
    with pytest.raises(ApiError, match="10 to 256"):
        await desk.sign_up(password="short", **good)
    with pytest.raises(ApiError, match="not secret"):
        await desk.sign_up(password="ada@example.org", **good)
    person, token = await desk.sign_up(password="correct horse", **good)
    assert token.startswith("mss_")
    assert len(token) == 47
    again, _ = await desk.sign_in(email="ADA@example.org", password="correct horse", address="10.0.0.1")
    assert again == person


async def test_only_admins_see_everybody(app: Application, owner: Tenant) -> None:
    person = await new_person(app, "ada")
    with pytest.raises(PermissionDeniedError):
        people.platform_caller(person)
    caller = Caller(None, owner.project.id, "acme", frozenset(), person_id=person.id)
    async with app.database.read() as session:
        with pytest.raises(PermissionDeniedError):
            await people.people(session, caller, Paging(10, None))


async def test_the_last_admin_stays_one(app: Application) -> None:
    first, second = await new_admin(app), await new_person(app, "ada")
    caller = people.platform_caller(first)

    async def set_admin(person: Person, is_admin: bool) -> Person:
        async with app.database.write() as session:
            return await people.set_admin(session, caller, person.id, is_admin=is_admin, now=1000)

    with pytest.raises(ConflictError, match="last one"):
        await set_admin(first, is_admin=False)
    assert (await set_admin(second, is_admin=True)).is_admin
    both = await asyncio.gather(*(set_admin(one, is_admin=False) for one in (first, second)), return_exceptions=True)
    assert sorted(type(one) is ConflictError for one in both) == [False, True]
