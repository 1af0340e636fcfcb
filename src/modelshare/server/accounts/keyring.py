"""Who a key's value stands for: remembered for a second, and looked at again as soon as the key changes."""

import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from modelshare.server.accounts import queries
from modelshare.server.accounts.rules import effective_scopes, is_allowed_from, is_valid
from modelshare.server.accounts.tables import KeyValueRow
from modelshare.server.db import Database
from modelshare.server.http import Caller
from modelshare.server.ids import secret_hash

KEYS_TOPIC = "keys"
"""Notification that a key changed; the subject is its id."""
CACHE_SECONDS = 1.0
"""The longest a process may go by what it remembers of a key, should a notification be lost."""
_LOOKS: Final = 5
"""How often a key is looked at that changes again while it is."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a process remembers of one value."""

    loaded: float
    caller: Caller | None
    revoked_at: int | None = None
    value_expires_at: int | None = None

    def good(self, now: float, address: str) -> Caller | None:
        """The caller, unless the value is unknown, over, revoked or used from elsewhere."""
        caller = self.caller
        if caller is None or not is_allowed_from(address, caller.allowed_ips):
            return None
        valid = is_valid(
            now=int(now),
            expires_at=caller.expires_at,
            revoked_at=self.revoked_at,
            value_expires_at=self.value_expires_at,
        )
        return caller if valid else None


class KeyUse(NamedTuple):
    """A value, and from where it is used."""

    value_hash: str
    address: str


class KeyRing:
    """Authenticates values of keys; remembers them for a second, and forgets at once what a notification names."""

    def __init__(self, database: Database, clock: Callable[[], float], most: int = 50_000) -> None:
        self._database = database
        self._clock = clock
        self._most = most
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._looking: list[set[str]] = []
        """For each look at the database under way: which keys were heard to have changed meanwhile."""
        self._used = dict[uuid.UUID, int]()
        """When keys were last good, since `note_use`."""
        database.subscribe(KEYS_TOPIC, self._forget)

    async def authenticate(self, secret: str, address: str) -> Caller | None:
        """The caller whose key this is, or None when the value is unknown, over, revoked or used from elsewhere."""
        value_hash = secret_hash(secret)
        now = self._clock()
        known = self._known.get(value_hash)
        if known is None or now - known.loaded >= CACHE_SECONDS:
            known = await self._load(value_hash, now)
        caller = known.good(now, address)
        if caller is not None:
            self._used[caller.key_id] = int(now)
        return caller

    async def over(self, uses: Collection[KeyUse]) -> set[KeyUse]:
        """Those of `uses` that would be refused now; asks the database, once for all of them."""
        now = self._clock()
        async with self._database.read() as session:
            values = await queries.key_values(session, {use.value_hash for use in uses})
        known = {value.hash: _known(value, now) for value in values}
        return {use for use in uses if use.value_hash not in known or not known[use.value_hash].good(now, use.address)}

    async def note_use(self) -> None:
        """Writes down when keys were last used; call it now and then. What cannot be written waits for another time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self._database.write() as session:
                await queries.set_last_used(session, used)
        except Exception:
            self._used = used | self._used
            raise

    async def _load(self, value_hash: str, now: float) -> _Known:
        for _ in range(_LOOKS):
            changed = set[str]()
            self._looking.append(changed)
            try:
                async with self._database.read() as session:
                    value = await queries.key_value(session, value_hash)
            finally:
                self._looking = [each for each in self._looking if each is not changed]
            known = _Known(now, None) if value is None else _known(value, now)
            if value is None or changed.isdisjoint({"*", str(value.key_id)}):
                self._remember(value_hash, known)
                break
        # One that changes all the time: this look began after it was asked for, and that is all that can be had.
        return known

    def _remember(self, value_hash: str, known: _Known) -> None:
        self._known[value_hash] = known
        self._known.move_to_end(value_hash)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def _forget(self, subject: str) -> None:
        for changed in self._looking:
            changed.add(subject)
        for value_hash, known in list(self._known.items()):
            if subject == "*" or (known.caller and str(known.caller.key_id) == subject):
                del self._known[value_hash]


def _known(value: KeyValueRow, now: float) -> _Known:
    key = value.key
    caller = Caller(
        key_id=key.id,
        project_id=key.project_id,
        project_slug=key.project.slug if key.project else None,
        scopes=effective_scopes(key.scopes, key.endpoint),
        endpoint=key.endpoint,
        allowed_ips=tuple(key.allowed_ips),
        expires_at=key.expires_at,
        is_platform=key.project_id is None,
    )
    return _Known(now, caller, key.revoked_at, value.expires_at)
