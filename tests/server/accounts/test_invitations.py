"""Invitations: links for one person each."""

import asyncio

import pytest
from sqlalchemy import text

from clock import Clock
from conftest import Tenant
from modelshare.server.accounts import invitations, members
from modelshare.server.accounts.presenters import InvitationView, Invited, Person
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.app import Application
from modelshare.server.audit import service as audit
from modelshare.server.errors import ConflictError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller
from modelshare.server.ids import new_id, secret_hash
from modelshare.server.paging import Paging
from modelshare.wire.usage import AuditFilter
from persons import join, new_person, sign_in

pytestmark = pytest.mark.anyio
OWNER, MEMBER = MemberRole.OWNER, MemberRole.MEMBER


@pytest.fixture
async def ada(app: Application, owner: Tenant) -> Caller:
    """An owner of the project."""
    return await caller_of(app, await new_person(app, "ada"), owner, OWNER)


async def caller_of(app: Application, person: Person, tenant: Tenant, role: MemberRole) -> Caller:
    await join(app, person, tenant.project.id, role)
    book = app.platform.sessions
    caller = await book.caller(await sign_in(app, person), tenant.project.id)
    assert caller is not None
    return caller


async def invite(app: Application, caller: Caller, role: MemberRole = MEMBER) -> tuple[InvitationView, str]:
    async with app.database.write() as session:
        return await invitations.invite(session, caller, role, now=app.platform.now())


async def listed(app: Application, caller: Caller) -> list[InvitationView]:
    async with app.database.read() as session:
        return await invitations.invitations(session, caller, now=app.platform.now())


async def check(app: Application, token: str) -> Invited | None:
    async with app.database.read() as session:
        return await invitations.invitation(session, token, now=app.platform.now())


async def accept(app: Application, person: Person, token: str) -> str:
    async with app.database.write() as session:
        return await invitations.accept(session, person, token, now=app.platform.now())


async def test_a_link_brings_somebody_in_once(app: Application, owner: Tenant, ada: Caller) -> None:
    made, token = await invite(app, ada, OWNER)
    assert token.startswith("msi_")
    assert await listed(app, ada) == [made]
    assert await check(app, token) == Invited(owner.project.id, "acme", "Acme", OWNER)
    assert await check(app, token)  # looking uses nothing
    bob, eve = await new_person(app, "bob"), await new_person(app, "eve")
    assert await accept(app, bob, token) == owner.project.id
    async with app.database.read() as session:
        found = (await members.members(session, ada, Paging(20, None))).data
        assert [(one.name, one.role) for one in found][1:] == [("Bob", OWNER)]
        entries = (await audit.page(session, owner.project.id, AuditFilter(), Paging(2, None))).data
    assert [entry.action for entry in entries] == ["member.add", "invitation.create"]
    assert await listed(app, ada) == []
    assert await check(app, token) is None
    with pytest.raises(NotFoundError):
        await accept(app, eve, token)


async def test_of_two_who_use_it_at_once_one_gets_in(app: Application, ada: Caller) -> None:
    _, token = await invite(app, ada)
    persons = [await new_person(app, f"p{n}") for n in range(4)]
    found = await asyncio.gather(*(accept(app, person, token) for person in persons), return_exceptions=True)
    assert sum(isinstance(one, NotFoundError) for one in found) == 3


async def test_who_is_in_already_does_not_use_it(app: Application, owner: Tenant, ada: Caller) -> None:
    _, token = await invite(app, ada, OWNER)
    bob = await new_person(app, "bob")
    await join(app, bob, owner.project.id, MEMBER)
    with pytest.raises(ConflictError, match="member of this project already"):
        await accept(app, bob, token)
    assert await check(app, token)


async def test_only_its_hash_is_stored(app: Application, ada: Caller) -> None:
    _, token = await invite(app, ada)
    async with app.database.read() as session:
        rows = (await session.execute(text("SELECT * FROM invitations"))).all()
    assert secret_hash(token) in str(rows)
    assert token not in str(rows)


async def test_after_seven_days_it_is_over_and_swept(app: Application, ada: Caller, clock: Clock) -> None:
    _, token = await invite(app, ada)
    clock.now += 7 * 24 * 3600 - 1
    assert await check(app, token)
    clock.now += 1
    assert await check(app, token) is None
    assert await listed(app, ada) == []
    with pytest.raises(NotFoundError):
        await accept(app, await new_person(app, "bob"), token)
    await app.chores.do_all()
    async with app.database.read() as session:
        assert (await session.execute(text("SELECT count(*) FROM invitations"))).scalar_one() == 0


async def test_an_ended_one_leads_nowhere(app: Application, owner: Tenant, deployer: Tenant, ada: Caller) -> None:
    made, token = await invite(app, ada)
    stranger = await caller_of(app, await new_person(app, "eve"), deployer, OWNER)
    for caller, wanted in ((stranger, made.id), (ada, new_id())):
        with pytest.raises(NotFoundError):
            async with app.database.write() as session:
                await invitations.end_invitation(session, caller, wanted, now=1000)
    assert await listed(app, stranger) == []
    async with app.database.write() as session:
        await invitations.end_invitation(session, ada, made.id, now=1000)
    assert await check(app, token) is None
    with pytest.raises(NotFoundError):
        await accept(app, await new_person(app, "bob"), token)


async def test_a_member_invites_nobody(app: Application, owner: Tenant, ada: Caller) -> None:
    member = await caller_of(app, await new_person(app, "bob"), owner, MEMBER)
    made, _ = await invite(app, ada)
    with pytest.raises(PermissionDeniedError):
        await invite(app, member)
    with pytest.raises(PermissionDeniedError):
        await listed(app, member)
    async with app.database.write() as session:
        with pytest.raises(PermissionDeniedError):
            await invitations.end_invitation(session, member, made.id, now=1000)
