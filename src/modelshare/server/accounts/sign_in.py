"""Sign-up and sign-in with a password, with rate limits. Passwords are not hashed while a transaction is open.

Attempts are counted per address, and per address and account, but not per account alone, since others could then lock
out its owner. Hashing is expensive, so it is queued, and addresses with fewer attempts come first.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.accounts import passwords, people, sessions
from modelshare.server.accounts.fair_turns import FairTurns
from modelshare.server.accounts.presenters import Person
from modelshare.server.accounts.rules import EMAIL_LENGTH, normal_email
from modelshare.server.addresses import counted_as
from modelshare.server.db import Database
from modelshare.server.errors import RateLimitedError, UnauthenticatedError
from modelshare.server.ratelimit import TokenBuckets
from modelshare.server.settings import Settings
from modelshare.wire.errors import ErrorCode

_PER_ADDRESS: Final = 30
_PER_PAIR: Final = 10
"""Attempts per minute, from an address, and from an address on one account; a burst may have half as many more."""


class SignIn:
    """Operations with passwords, in one process."""

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], float]) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._addresses = TokenBuckets(_PER_ADDRESS, clock)
        self._pairs = TokenBuckets(_PER_PAIR, clock)
        self._turns = FairTurns(passwords.AT_ONCE)

    async def sign_up(
        self, *, email: str, name: str, password: str, invitation: str | None, address: str
    ) -> tuple[Person, str]:
        """Creates a person and a session; returns its token. Raises the errors of `people.sign_up`; 400, 429."""
        asked = self._count(address, email)
        people.check_new_password(password, email)
        async with self._turns.turn(asked):
            password_hash = await passwords.hash_password(password)
        async with self._database.write() as session:
            person = await people.sign_up(
                session,
                email=email,
                name=name,
                password_hash=password_hash,
                invitation=invitation,
                policy=self._settings.accounts_sign_up,
                now=self._now(),
            )
            return person, await self._open(session, person)

    async def sign_in(self, *, email: str, password: str, address: str) -> tuple[Person, str]:
        """Returns the person and a new session's token. 401 if the e-mail or the password is wrong; 429."""
        asked = self._count(address, email)
        async with self._turns.turn(asked):
            person, password_hash = await self._verified(email, password)
            newer = await passwords.hash_password(password) if passwords.is_outdated(password_hash) else None
        async with self._database.write() as session:
            await people.replace_hash(session, person.id, password_hash, newer)
            return person, await self._open(session, person)

    async def change_password(self, person: Person, *, old: str, new: str, token: str, address: str) -> None:
        """Changes the password, and ends other sessions. 400 for an invalid new password, 401 for a wrong old one;
        429."""
        asked = self._count(address, person.email)
        people.check_new_password(new, person.email)
        async with self._turns.turn(asked):
            _, old_hash = await self._verified(person.email, old)
            new_hash = await passwords.hash_password(new)
        async with self._database.write() as session:
            await people.change_password(
                session, person, old_hash=old_hash, new_hash=new_hash, token=token, now=self._now()
            )

    async def _verified(self, email: str, password: str) -> tuple[Person, str]:
        async with self._database.read() as session:
            found = await people.credentials(session, email)
        if not await passwords.verify(password, found[1] if found else None) or found is None:
            raise UnauthenticatedError("Incorrect e-mail or password. Check both and try again.")
        return found

    def _count(self, address: str, email: str) -> float:
        """The address's number of recent attempts, including this one. 429 if there are too many."""
        place = counted_as(address)
        pair = f"{place} {normal_email(email)[:EMAIL_LENGTH]}"
        if wait := self._addresses.take(place) or self._pairs.take(pair):
            raise RateLimitedError(
                f"Too many attempts from your address. Try again in {wait} s.",
                code=ErrorCode.RATE_LIMIT_EXCEEDED,
                retry_after=wait,
            )
        return self._addresses.used(place)

    async def _open(self, session: AsyncSession, person: Person) -> str:
        return await sessions.open_session(session, person.id, self._now(), days=self._settings.accounts_session_days)

    def _now(self) -> int:
        return int(self._clock())
