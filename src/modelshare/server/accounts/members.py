"""Members of projects and their roles."""

import uuid
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import queries, service
from modelshare.server.accounts.presenters import Membership, MemberView, Person, member_view, membership_view
from modelshare.server.accounts.rules import MemberRole, clean_name
from modelshare.server.accounts.sessions import PEOPLE_TOPIC
from modelshare.server.accounts.tables import MemberRow
from modelshare.server.audit.service import Audit
from modelshare.server.db import is_unique_violation, notify
from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError, PermissionDeniedError
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.wire.base import Page
from modelshare.wire.keys import Project, ProjectCreate


async def memberships(session: AsyncSession, person: Person) -> list[Membership]:
    """The person's projects, by name."""
    return [membership_view(row) for row in await queries.memberships(session, [person.id])]


async def create_project(
    session: AsyncSession, person: Person, *, name: str, slug: str, limit: int, now: int
) -> Project:
    """Creates a project owned by the person, without a key. `limit`: the maximum number of projects a person may
    create."""
    try:
        request = ProjectCreate(name=clean_name(name), slug=slug)
    except ValidationError as error:
        wrong = "name" if error.errors()[0]["loc"] == ("name",) else "slug"
        fits = "1 to 100 characters" if wrong == "name" else "1 to 40 lower-case letters, digits and single hyphens"
        raise InvalidRequestError(f"A project's {wrong} must have {fits}. Choose another one.", param=wrong) from error
    except ValueError as error:
        raise InvalidRequestError(str(error), param="name") from error
    await queries.lock_person(session, person.id)  # so that concurrent requests cannot exceed the limit
    if not person.is_admin:
        owned = sum(row.role == MemberRole.OWNER for row in await queries.memberships(session, [person.id]))
        if owned >= limit:
            raise PermissionDeniedError(
                f"You own {owned} projects, and the limit is {limit}. Ask the platform's admin."
            )
    project = await service.new_project(session, request, now=now, actor=person.actor)
    await add(session, project.id, person, MemberRole.OWNER, now=now)
    return service.project_view(project)


async def add(session: AsyncSession, project_id: str, person: Person, role: MemberRole, *, now: int) -> None:
    """Adds a member. 409 if the person already is one."""
    session.add(MemberRow(project_id=project_id, person_id=person.id, role=role.value, added_at=now))
    try:
        await session.flush()
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise ConflictError("You are a member of this project already.") from error
    _record(session, person.actor, "member.add", project_id, person.id, now, role=role.value)


async def members(session: AsyncSession, caller: Caller, paging: Paging) -> Page[MemberView]:
    """In the order in which they were added."""
    rows = await queries.members(session, caller.project, paging.fetch_limit, paging.after_row(int, uuid.UUID))
    rows, cursor = paging.cut(rows, lambda row: (row.added_at, row.person_id))
    return Page.of([member_view(row) for row in rows], cursor)


async def member(session: AsyncSession, caller: Caller, person_id: uuid.UUID) -> MemberView:
    """A member of the project; 404 otherwise."""
    row = await queries.member(session, caller.project, person_id)
    if row is None:
        raise _no_member()
    return member_view(row)


async def change_role(
    session: AsyncSession, caller: Caller, person_id: uuid.UUID, role: MemberRole, *, now: int
) -> None:
    """Changes a member's role. For owners. 409 if the project would lose its last owner."""
    check_owner(caller)
    row = await _lock(session, caller, person_id)
    if row.role == role:
        return
    await _check_not_last(session, row)
    row.role = role.value
    _record(session, caller.actor, "member.change_role", row.project_id, person_id, now, role=role.value)


async def remove(session: AsyncSession, caller: Caller, person_id: uuid.UUID, *, now: int) -> None:
    """Removes a member. For owners, and for members who leave. 409 for the last owner."""
    if caller.person_id != person_id:
        check_owner(caller)
    row = await _lock(session, caller, person_id)
    await _check_not_last(session, row)
    await session.delete(row)
    _record(session, caller.actor, "member.remove", row.project_id, person_id, now)


def check_owner(caller: Caller) -> None:
    """403 unless the caller is an owner of the project."""
    if caller.scopes:
        raise PermissionDeniedError("Only an owner of this project may do that. Ask one of them.")


async def _lock(session: AsyncSession, caller: Caller, person_id: uuid.UUID) -> MemberRow:
    await queries.lock_project(session, caller.project)
    row = await queries.member(session, caller.project, person_id)
    if row is None:
        raise _no_member()
    return row


def _no_member() -> NotFoundError:
    return NotFoundError("There is no such member in this project.")


async def _check_not_last(session: AsyncSession, row: MemberRow) -> None:
    if row.role == MemberRole.OWNER and await queries.owners(session, row.project_id) == 1:
        raise ConflictError(
            "A project needs at least one owner, and this is the last one. Make another member an owner first."
        )


def _record(
    session: AsyncSession, actor: str, action: str, project_id: str, person_id: uuid.UUID, now: int, **details: Any
) -> None:
    """Call after every change of a membership: records it in the audit log and notifies of it."""
    Audit(session, project_id, actor, now).done(action, f"person:{person_id}", **details)
    notify(session, PEOPLE_TOPIC, str(person_id))
