"""Authenticates keys, cached for a second and dropped when a key changes."""

import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec

from modelshare.server.accounts import queries
from modelshare.server.accounts.rules import effective_scopes, is_allowed_from, valid_until
from modelshare.server.accounts.tables import KeyValueRow
from modelshare.server.cache import GRACE_SECONDS, NotifiedCache
from modelshare.server.db import Database
from modelshare.server.errors import KeySuspendedError
from modelshare.server.http import Caller
from modelshare.server.ids import secret_hash
from modelshare.wire.keys import NO_LIMITS

KEYS_TOPIC = "keys"
"""Notification that a key changed; the subject is its ID."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A cached value."""

    caller: Caller | None
    valid_until: float = 0
    """Unix seconds."""
    is_suspended: bool = False

    @property
    def subject(self) -> str | None:
        return str(self.caller.id) if self.caller else None

    def good(self, now: float, address: str) -> Caller | None:
        """The caller, unless the value is unknown, expired, revoked or used from an address that is not allowed.

        KeySuspendedError if it would be valid but for the suspension: only its holder learns of that.
        """
        caller = self.caller
        if caller is None or int(now) >= self.valid_until:
            return None
        if caller.allowed_ips and not is_allowed_from(address, caller.allowed_ips):
            return None
        if self.is_suspended:
            raise KeySuspendedError
        return caller

    def is_over(self, now: float, address: str) -> bool:
        return self.is_suspended or self.good(now, address) is None


class KeyUse(msgspec.Struct, frozen=True):
    """A value, and the address from which it is used."""

    value_hash: str
    address: str


class KeyAuthenticator:
    """Authenticates values of keys. Caches them for a second; notifications drop them immediately."""

    def __init__(self, database: Database, clock: Callable[[], float], *, grace: float = GRACE_SECONDS) -> None:
        """`grace`: how long cached keys stay valid in an outage of the database, in seconds."""
        self._database = database
        self._clock = clock
        self._cache = NotifiedCache[str, _Known](self._load, clock, grace=grace)
        self._used = dict[uuid.UUID, int]()
        """When keys were last used, since the last `note_use`."""
        self._cache.drop_on(database, KEYS_TOPIC, lambda subject, _, known: subject == known.subject)

    async def authenticate(self, secret: str, address: str) -> Caller | None:
        """The key's caller; None if it is unknown, expired, revoked or used from an address that is not allowed.

        Raises KeySuspendedError.
        """
        return await self.authenticate_hash(secret_hash(secret), address)

    async def authenticate_hash(self, value_hash: str, address: str) -> Caller | None:
        """As `authenticate`, by the value's hash."""
        now = self._clock()
        return self._caller(await self._cache.get(value_hash), now, address)

    def known(self, use: KeyUse) -> tuple[Caller | None] | None:
        """As `authenticate`, without waiting; None if the key has to be looked up."""
        known = self._cache.known(use.value_hash)
        return None if known is None else (self._caller(known.value, self._clock(), use.address),)

    def _caller(self, known: _Known, now: float, address: str) -> Caller | None:
        caller = known.good(now, address)
        if caller is not None:
            self._used[caller.id] = int(now)
        return caller

    async def revoked_among(self, uses: Collection[KeyUse]) -> set[KeyUse]:
        """Those of `uses` that are suspended or not valid any more, according to the database, in one query."""
        now = self._clock()
        async with self._database.read() as session:
            values = await queries.key_values(session, {use.value_hash for use in uses})
        known = {value.hash: _known(value) for value in values}
        return {use for use in uses if use.value_hash not in known or known[use.value_hash].is_over(now, use.address)}

    async def note_use(self) -> None:
        """Stores when keys were last used; call it regularly. What cannot be written is kept for the next call."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self._database.write() as session:
                await queries.set_last_used(session, used)
        except Exception:
            self._used = used | self._used
            raise

    async def stop(self) -> None:
        """Call it before the database is closed."""
        await self._cache.stop()

    async def _load(self, value_hash: str) -> _Known:
        async with self._database.read() as session:
            value = await queries.key_value(session, value_hash)
        return _Known(None) if value is None else _known(value)


def _known(value: KeyValueRow) -> _Known:
    key = value.key
    caller = Caller(
        key_id=key.id,
        project_id=key.project_id,
        project_slug=key.project.slug if key.project else None,
        scopes=effective_scopes(key.scopes, key.endpoint),
        endpoint=key.endpoint,
        allowed_ips=tuple(key.allowed_ips),
        expires_at=key.expires_at,
        value_expires_at=value.expires_at,
        is_platform=key.project_id is None,
        limits=None if key.limits == NO_LIMITS else key.limits,
    )
    until = valid_until(expires_at=key.expires_at, revoked_at=key.revoked_at, value_expires_at=value.expires_at)
    return _Known(caller, until, is_suspended=key.suspended_at is not None)
