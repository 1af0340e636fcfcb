"""People: sign up, their names and passwords, and who looks after the platform."""

import uuid
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, Literal, TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import invitations, queries, sessions
from modelshare.server.accounts.presenters import Person, person_view
from modelshare.server.accounts.rules import check_password, clean_email, clean_name
from modelshare.server.accounts.sessions import PEOPLE_TOPIC
from modelshare.server.accounts.tables import PersonRow
from modelshare.server.audit.service import SYSTEM, Audit
from modelshare.server.db import advisory_lock, is_unique_violation, notify
from modelshare.server.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from modelshare.server.http import Caller
from modelshare.server.paging import Paging
from modelshare.wire.base import Page

Value = TypeVar("Value")
_ADMINS: Final = "admins"
"""Who counts admins, or is the first of them, does so alone."""


async def sign_up(
    session: AsyncSession,
    *,
    email: str,
    name: str,
    password_hash: str,
    invitation: str | None,
    policy: Literal["open", "invite_only"],
    now: int,
) -> Person:
    """A new person, a member of the project that the invitation (its token) is of.

    The first person is the platform's admin. 409 when the e-mail is taken; 403 where nobody else signs up uninvited.
    """
    is_first = await _is_first(session)
    if policy == "invite_only" and not is_first and not await _is_invited(session, invitation, now):
        raise PermissionDeniedError("Sign-up is by invitation only. Ask an owner of your project for a link.")
    row = PersonRow(
        email=_checked(clean_email, email, "email"),
        name=_checked(clean_name, name, "name"),
        password_hash=password_hash,
        is_admin=is_first,
        created_at=now,
    )
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise ConflictError(
            f"An account with the e-mail {row.email} already exists. Sign in instead.", param="email"
        ) from error
    person = person_view(row)
    _record(session, person.actor, "person.sign_up", person.id, now)
    if is_first:
        _record(session, SYSTEM, "person.set_admin", person.id, now, is_admin=True)
    if invitation:
        await invitations.accept(session, person, invitation, now=now)
    return person


async def any_exist(session: AsyncSession) -> bool:
    """False on a new platform: whoever signs up next is its admin."""
    return await queries.has_people(session)


async def credentials(session: AsyncSession, email: str) -> tuple[Person, str] | None:
    """The person with this e-mail, and the hash of their password."""
    try:
        row = await queries.person_by_email(session, clean_email(email))
    except ValueError:
        return None
    return None if row is None else (person_view(row), row.password_hash)


async def replace_hash(session: AsyncSession, person_id: uuid.UUID, old_hash: str, new_hash: str | None) -> None:
    """Has it be `new_hash` (None: as it is). 401 when `old_hash` is not the password's any more."""
    row = await queries.lock_person(session, person_id)
    if row is None or row.password_hash != old_hash:
        raise UnauthenticatedError("The password was changed by another request. Sign in again.")
    if new_hash is not None:
        row.password_hash = new_hash


async def change_password(
    session: AsyncSession, person: Person, *, old_hash: str, new_hash: str, token: str, now: int
) -> None:
    """Signs the person out everywhere but in the session with this token."""
    await replace_hash(session, person.id, old_hash, new_hash)
    await sessions.close_all(session, person.id, except_token=token)
    _record(session, person.actor, "person.change_password", person.id, now)


async def reset_password(session: AsyncSession, email: str, new_hash: str, *, now: int) -> Person:
    """The operator's way back in for somebody: signs them out everywhere. 404 for nobody."""
    found = await credentials(session, email)
    if found is None:
        raise NotFoundError("There is no user with this e-mail on this platform.")
    person, old_hash = found
    await replace_hash(session, person.id, old_hash, new_hash)
    await sessions.close_all(session, person.id)
    _record(session, SYSTEM, "person.change_password", person.id, now)
    return person


async def rename(session: AsyncSession, person: Person, name: str) -> Person:
    row = await _own(session, person.id)
    row.name = _checked(clean_name, name, "name")
    notify(session, PEOPLE_TOPIC, str(person.id))
    return person_view(row)


async def names(session: AsyncSession, person_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """What those of them who are people are called."""
    return await queries.names(session, person_ids) if person_ids else {}


async def people(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Person]:
    """For the platform's admins: everybody, the newest first."""
    _check_platform(caller)
    rows = await queries.people(session, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of([person_view(row) for row in rows], cursor)


async def count(session: AsyncSession, limit: int) -> int:
    """Counts no further than `most`."""
    return await queries.count_people(session, limit)


async def set_admin(session: AsyncSession, caller: Caller, person_id: uuid.UUID, *, is_admin: bool, now: int) -> Person:
    """For the platform's admins. 409 for the last of them."""
    _check_platform(caller)
    await advisory_lock(session, _ADMINS)
    row = await _own(session, person_id)
    if row.is_admin == is_admin:
        return person_view(row)
    if not is_admin and await queries.admins(session) == 1:
        raise ConflictError(
            "The platform needs at least one admin, and this is the last one. Make another user an admin first."
        )
    row.is_admin = is_admin
    _record(session, caller.actor, "person.set_admin", person_id, now, is_admin=is_admin)
    return person_view(row)


def platform_caller(person: Person) -> Caller:
    """The person as who looks after the platform: in no project, as with a platform key. 403 for others."""
    if not person.is_admin:
        raise PermissionDeniedError("Only the platform's admins may do that. Ask one of them.")
    return Caller(
        key_id=None, person_id=person.id, project_id=None, project_slug=None, scopes=frozenset(), is_platform=True
    )


def check_new_password(password: str, email: str) -> None:
    """400 for one that is no good for the person with this e-mail."""
    _checked(partial(check_password, email=email), password, "password")


async def _is_first(session: AsyncSession) -> bool:
    """True for one: of two who come first at once, the other waits here until that one is there."""
    if await queries.has_people(session):
        return False
    await advisory_lock(session, _ADMINS)
    return not await queries.has_people(session)


async def _is_invited(session: AsyncSession, token: str | None, now: int) -> bool:
    """Asked before anything else is, so that strangers do not learn which e-mails are taken."""
    return token is not None and await invitations.invitation(session, token, now=now) is not None


def _checked(clean: Callable[[str], Value], text: str, param: str) -> Value:
    """What the rule makes of it. 400 with its sentence where it takes it not."""
    try:
        return clean(text)
    except ValueError as error:
        raise InvalidRequestError(str(error), param=param) from error


async def _own(session: AsyncSession, person_id: uuid.UUID) -> PersonRow:
    row = await queries.lock_person(session, person_id)
    if row is None:
        raise NotFoundError("There is no such user on this platform.")
    return row


def _check_platform(caller: Caller) -> None:
    if not caller.is_platform:
        raise PermissionDeniedError("Only the platform's admins may do that. Ask one of them.")


def _record(session: AsyncSession, actor: str, action: str, person_id: uuid.UUID, now: int, **details: Any) -> None:
    """Ends every change of a person."""
    Audit(session, None, actor, now).done(action, f"person:{person_id}", **details)
    notify(session, PEOPLE_TOPIC, str(person_id))
