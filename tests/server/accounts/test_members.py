"""Projects of people, and who belongs to them."""

import asyncio
from typing import Any

import pytest

from conftest import Tenant
from modelshare.server.accounts import members, queries
from modelshare.server.accounts.presenters import MemberView, Person
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.app import Application
from modelshare.server.audit import service as audit
from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.wire.usage import AuditFilter
from persons import join, new_person, sign_in

pytestmark = pytest.mark.anyio
OWNER, MEMBER = MemberRole.OWNER, MemberRole.MEMBER


async def create(app: Application, person: Person, slug: str = "lab", name: str = "Lab", limit: int = 2) -> Any:
    async with app.database.write() as session:
        return await members.create_project(session, person, name=name, slug=slug, limit=limit, now=1000)


async def caller_of(app: Application, person: Person, project: str = "lab") -> Caller:
    book = app.platform.sessions
    caller = await book.caller(await sign_in(app, person), project)
    assert caller is not None
    return caller


async def change(app: Application, caller: Caller, person: Person, role: MemberRole) -> None:
    async with app.database.write() as session:
        await members.change_role(session, caller, person.id, role, now=1000)


async def remove(app: Application, caller: Caller, person: Person) -> None:
    async with app.database.write() as session:
        await members.remove(session, caller, person.id, now=1000)


async def roles(app: Application, caller: Caller) -> dict[str, MemberRole]:
    async with app.database.read() as session:
        page = await members.members(session, caller, Paging(20, None))
        return {member.email.partition("@")[0]: member.role for member in page.data}


async def test_who_makes_a_project_owns_it_and_has_no_key(app: Application) -> None:
    ada = await new_person(app, "ada")
    project = await create(app, ada, name=" Lab ")
    assert (project.name, project.slug) == ("Lab", "lab")
    async with app.database.read() as session:
        (membership,) = await members.memberships(session, ada)
        assert await queries.keys(session, project.id, 10, None) == []
    assert (membership.project_id, membership.name, membership.role) == (project.id, "Lab", OWNER)
    caller = await caller_of(app, ada)
    assert await roles(app, caller) == {"ada": OWNER}
    entries = await log(app, caller)
    assert [(entry.action, entry.actor) for entry in entries] == [
        ("member.add", f"person:{ada.id}"),
        ("project.create", f"person:{ada.id}"),
    ]


async def log(app: Application, caller: Caller) -> list[Any]:
    async with app.database.read() as session:
        return (await audit.page(session, caller.project, AuditFilter(), Paging(20, None))).data


@pytest.mark.parametrize(
    ("name", "slug", "wrong"),
    [("Lab", "No!", "slug"), ("Lab", "a--b", "slug"), ("Lab", "x" * 41, "slug"), (" ", "lab", "name"),
     ("x" * 101, "lab", "name")],
)  # fmt: skip
async def test_what_does_not_fit_is_named(app: Application, name: str, slug: str, wrong: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await create(app, await new_person(app, "ada"), slug, name)
    assert raised.value.param == wrong


async def test_a_name_with_a_nul_or_a_taken_slug_is_refused(app: Application, owner: Tenant) -> None:
    ada = await new_person(app, "ada")
    with pytest.raises(InvalidRequestError):
        await create(app, ada, name="La\0b")
    with pytest.raises(ConflictError, match="acme"):
        await create(app, ada, "acme")


async def test_so_many_projects_and_no_more_but_for_admins(app: Application, owner: Tenant) -> None:
    ada, admin = await new_person(app, "ada"), await new_person(app, "admin", is_admin=True)
    await join(app, ada, owner.project.id, MEMBER)  # counts only where one is an owner
    made = await asyncio.gather(*(create(app, ada, f"lab{n}") for n in range(4)), return_exceptions=True)
    assert sum(isinstance(one, PermissionDeniedError) for one in made) == 2
    for n in range(3):
        await create(app, admin, f"admin{n}")


async def test_an_owner_changes_roles_and_removes(app: Application) -> None:
    ada, bob = await new_person(app, "ada"), await new_person(app, "bob")
    project = await create(app, ada)
    await join(app, bob, project.id, MEMBER)
    caller = await caller_of(app, ada)
    await change(app, caller, bob, OWNER)
    await change(app, caller, bob, OWNER)  # as it is already
    assert await roles(app, caller) == {"ada": OWNER, "bob": OWNER}
    await remove(app, caller, bob)
    assert await roles(app, caller) == {"ada": OWNER}
    assert [entry.action for entry in await log(app, caller)][:2] == ["member.remove", "member.change_role"]
    assert (await log(app, caller))[0].target == f"person:{bob.id}"
    with pytest.raises(NotFoundError):
        await remove(app, caller, bob)


async def test_a_member_looks_and_leaves_and_does_no_more(app: Application) -> None:
    ada, bob = await new_person(app, "ada"), await new_person(app, "bob")
    project = await create(app, ada)
    await join(app, bob, project.id, MEMBER)
    caller = await caller_of(app, bob)
    assert set(await roles(app, caller)) == {"ada", "bob"}
    with pytest.raises(PermissionDeniedError, match="owner"):
        await change(app, caller, bob, OWNER)
    with pytest.raises(PermissionDeniedError, match="owner"):
        await remove(app, caller, ada)
    await remove(app, caller, bob)
    assert await roles(app, caller) == {"ada": OWNER}


async def test_the_last_owner_stays(app: Application) -> None:
    ada, bob = await new_person(app, "ada"), await new_person(app, "bob")
    project = await create(app, ada)
    await join(app, bob, project.id, MEMBER)
    caller = await caller_of(app, ada)
    with pytest.raises(ConflictError, match="last one"):
        await change(app, caller, ada, MEMBER)
    with pytest.raises(ConflictError, match="last one"):
        await remove(app, caller, ada)


@pytest.mark.parametrize("leave", [True, False])
async def test_of_two_owners_who_go_at_once_one_stays(app: Application, leave: bool) -> None:
    for n in range(5):
        ada, bob = await new_person(app, f"ada{n}"), await new_person(app, f"bob{n}")
        project = await create(app, ada, f"lab{n}")
        await join(app, bob, project.id)
        callers = [await caller_of(app, person, f"lab{n}") for person in (ada, bob)]
        work = [
            remove(app, caller, person) if leave else change(app, caller, person, MEMBER)
            for caller, person in zip(callers, (ada, bob), strict=True)
        ]
        found = await asyncio.gather(*work, return_exceptions=True)
        assert sorted(type(one) is ConflictError for one in found) == [False, True]


async def test_other_projects_people_are_not_there(app: Application, owner: Tenant) -> None:
    ada, eve = await new_person(app, "ada"), await new_person(app, "eve")
    await create(app, ada)
    await join(app, eve, owner.project.id)
    caller = await caller_of(app, eve, "acme")
    assert set(await roles(app, caller)) == {"eve"}
    with pytest.raises(NotFoundError):
        await remove(app, caller, ada)
    with pytest.raises(NotFoundError):
        await change(app, caller, ada, MEMBER)


async def test_pages_hold_everybody_once_in_the_order_they_came(app: Application) -> None:
    """Those of one second too."""
    ada, *others = [await new_person(app, name) for name in ("ada", "bob", "cyd", "dan", "eve")]
    await create(app, ada)
    caller = await caller_of(app, ada)
    async with app.database.write() as session:
        for person, now in zip(others, (1009, 1000, 1000, 1000), strict=True):
            await members.add(session, caller.project, person, MEMBER, now=now)
    seen: list[MemberView] = []
    paging = Paging(2, None)
    async with app.database.read() as session:
        while True:
            page = await members.members(session, caller, paging)
            seen += page.data
            if not page.has_more:
                break
            paging = Paging(2, page.next_cursor)
    at_once = sorted(person.id for person in (ada, *others[1:]))
    assert [each.person_id for each in seen] == [*at_once, others[0].id]
