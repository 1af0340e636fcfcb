"""Sessions: browsers that somebody signed in with, and who that is, remembered for a second."""

import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import queries
from modelshare.server.accounts.presenters import Person, person_view
from modelshare.server.accounts.rules import MemberRole, scopes_of
from modelshare.server.accounts.tables import ProjectRow, SessionRow
from modelshare.server.cache import GRACE_SECONDS, NotifiedCache
from modelshare.server.db import Database, notify
from modelshare.server.errors import NotFoundError, UnauthenticatedError
from modelshare.server.http import Caller
from modelshare.server.ids import new_secret, secret_hash
from modelshare.wire.errors import ErrorCode

PEOPLE_TOPIC = "people"
"""Notification that a person, their sessions or their memberships changed; the subject is the person's id."""
_DAY: Final = 24 * 3600


async def open_session(session: AsyncSession, person_id: uuid.UUID, now: int, *, days: int) -> str:
    """A new session that lasts so long; its token, which is answered this once."""
    token = new_secret("mss")
    row = SessionRow(hash=secret_hash(token), person_id=person_id, created_at=now, expires_at=now + days * _DAY)
    session.add(row)
    await session.flush()
    return token


async def close_session(session: AsyncSession, token: str) -> None:
    """Signs out; a token that is none is signed out already."""
    person_id = await queries.end_session(session, secret_hash(token))
    if person_id is not None:
        notify(session, PEOPLE_TOPIC, str(person_id))


async def close_all(session: AsyncSession, person_id: uuid.UUID, except_token: str | None = None) -> None:
    """Signs somebody out everywhere, or everywhere else."""
    await queries.end_sessions(session, person_id, secret_hash(except_token) if except_token else None)
    notify(session, PEOPLE_TOPIC, str(person_id))


async def sweep(session: AsyncSession, *, now: int) -> None:
    """Deletes sessions and invitations that are over."""
    await queries.end_expired(session, now)


class SessionUse(NamedTuple):
    """A session, and the project it is used in; None is no project's page."""

    token_hash: str
    project: str | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What a process remembers of one use."""

    person: Person | None
    caller: Caller | None = None
    expires_at: int = 0

    @property
    def subject(self) -> str | None:
        return str(self.person.id) if self.person else None


class SessionAuthenticator:
    """Knows people by their sessions' tokens; remembers as a KeyRing does."""

    def __init__(self, database: Database, clock: Callable[[], float], *, grace: float = GRACE_SECONDS) -> None:
        """`grace`: seconds that known sessions go on while the database cannot be asked."""
        self._database = database
        self._clock = clock
        self._cache = NotifiedCache[SessionUse, _Known](self._load, clock, grace=grace)
        self._cache.drop_on(database, PEOPLE_TOPIC, lambda subject, _, known: subject == known.subject)

    async def person(self, token: str) -> Person | None:
        """Who is signed in, or None when the session is unknown, closed or over."""
        return (await self._good(token, None)).person

    async def caller(self, token: str, project: str) -> Caller | None:
        """The person in this project (a slug or an id), or None where they have nothing to look for."""
        return (await self._good(token, project)).caller

    async def authenticate(self, token: str, project_id: str) -> Caller:
        """As `caller`. Raises UnauthenticatedError for a session that is over, else NotFoundError."""
        known = await self._good(token, project_id)
        if known.person is None:
            raise UnauthenticatedError
        if known.caller is None:
            raise NotFoundError(
                "There is no such project, or you are not one of its members.", code=ErrorCode.PROJECT_NOT_FOUND
            )
        return known.caller

    async def revoked_among(self, uses: Collection[SessionUse]) -> set[SessionUse]:
        """Those of `uses`, all of projects, that would be refused now."""
        now = self._clock()
        async with self._database.read() as session:
            rows = {row.hash: row for row in await queries.sessions(session, {use.token_hash for use in uses})}
            found = await queries.memberships(session, {row.person_id for row in rows.values()})
        member_of = {(row.person_id, name) for row in found for name in (row.project_id, row.project.slug)}

        def is_good(use: SessionUse) -> bool:
            row = rows.get(use.token_hash)
            if row is None or now >= row.expires_at:
                return False
            return row.person.is_admin or (row.person_id, use.project) in member_of

        return {use for use in uses if not is_good(use)}

    async def stop(self) -> None:
        """Call it before the database is closed."""
        await self._cache.stop()

    async def _good(self, token: str, project: str | None) -> _Known:
        known = await self._cache.get(SessionUse(secret_hash(token), project))
        return known if self._clock() < known.expires_at else _Known(None)

    async def _load(self, use: SessionUse) -> _Known:
        async with self._database.read() as session:
            row = next(iter(await queries.sessions(session, [use.token_hash])), None)
            if row is None:
                return _Known(None)
            person = person_view(row.person)
            found = await queries.project_as_seen_by(session, person.id, use.project) if use.project else None
        caller = None if found is None else _caller(person, *found)
        return _Known(person, caller, row.expires_at)


def _caller(person: Person, project: ProjectRow, role: MemberRole | None) -> Caller | None:
    """A platform's admin acts in any project as one of its owners."""
    if role is None and not person.is_admin:
        return None
    return Caller(
        key_id=None,
        person_id=person.id,
        project_id=project.id,
        project_slug=project.slug,
        scopes=scopes_of(MemberRole.OWNER if person.is_admin else role or MemberRole.MEMBER),
    )
