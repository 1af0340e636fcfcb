"""People: sign-up, names, passwords, and the platform's admins."""

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
"""The name of the lock for counting admins, and for creating the first one."""


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
    """Creates a person, as a member of the invitation's project if there is one (its token).

    The first person becomes the platform's admin. 409 if the e-mail is taken; 403 if an invitation is required.
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
    """Whether anyone has signed up. On a new platform, the first person becomes its admin."""
    return await queries.has_people(session)


async def credentials(session: AsyncSession, email: str) -> tuple[Person, str] | None:
    """The person with this e-mail, and the hash of their password."""
    try:
        row = await queries.person_by_email(session, clean_email(email))
    except ValueError:
        return None
    return None if row is None else (person_view(row), row.password_hash)


async def replace_hash(session: AsyncSession, person_id: uuid.UUID, old_hash: str, new_hash: str | None) -> None:
    """Replaces the hash by `new_hash` (None: keeps it). 401 if it is no longer `old_hash`."""
    row = await queries.lock_person(session, person_id)
    if row is None or row.password_hash != old_hash:
        raise UnauthenticatedError("The password was changed by another request. Sign in again.")
    if new_hash is not None:
        row.password_hash = new_hash


async def change_password(
    session: AsyncSession, person: Person, *, old_hash: str, new_hash: str, token: str, now: int
) -> None:
    """Changes the password, and ends all sessions of the person except the one with this token."""
    await replace_hash(session, person.id, old_hash, new_hash)
    await sessions.close_all(session, person.id, except_token=token)
    _record(session, person.actor, "person.change_password", person.id, now)


async def reset_password(session: AsyncSession, email: str, new_hash: str, *, now: int) -> Person:
    """Sets a new password for the operator, and ends all sessions of the person. 404 for an unknown e-mail."""
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
    """Names of those of the IDs that are people's."""
    return await queries.names(session, person_ids) if person_ids else {}


async def people(session: AsyncSession, caller: Caller, paging: Paging) -> Page[Person]:
    """All people, newest first. For the platform's admins."""
    _check_platform(caller)
    rows = await queries.people(session, paging.fetch_limit, paging.after_id)
    rows, cursor = paging.cut(rows)
    return Page.of([person_view(row) for row in rows], cursor)


async def count(session: AsyncSession, limit: int) -> int:
    """The number of people, counted up to `limit`."""
    return await queries.count_people(session, limit)


async def set_admin(session: AsyncSession, caller: Caller, person_id: uuid.UUID, *, is_admin: bool, now: int) -> Person:
    """Makes a person an admin, or not. For the platform's admins. 409 for the last of them."""
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
    """A caller for an admin acting on the platform, in no project, as with a platform key. 403 for others."""
    if not person.is_admin:
        raise PermissionDeniedError("Only the platform's admins may do that. Ask one of them.")
    return Caller(
        key_id=None, person_id=person.id, project_id=None, project_slug=None, scopes=frozenset(), is_platform=True
    )


def check_new_password(password: str, email: str) -> None:
    """400 for a password that is too weak for the person with this e-mail."""
    _checked(partial(check_password, email=email), password, "password")


async def _is_first(session: AsyncSession) -> bool:
    """Whether this is the first person. Takes a lock, so that of two concurrent requests only one is."""
    if await queries.has_people(session):
        return False
    await advisory_lock(session, _ADMINS)
    return not await queries.has_people(session)


async def _is_invited(session: AsyncSession, token: str | None, now: int) -> bool:
    """Checked before anything else, so that others cannot find out which e-mails are taken."""
    return token is not None and await invitations.invitation(session, token, now=now) is not None


def _checked(clean: Callable[[str], Value], text: str, param: str) -> Value:
    """The value cleaned by a rule. 400 with the rule's message if it is invalid."""
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
    """Call after every change of a person: records it in the audit log and notifies of it."""
    Audit(session, None, actor, now).done(action, f"person:{person_id}", **details)
    notify(session, PEOPLE_TOPIC, str(person_id))
