"""A cache of database contents, valid for a second and invalidated by notifications of changes.

In an outage of the database, entries stay valid for a grace period, except those dropped by a notification.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from modelshare.server.background import within
from modelshare.server.db import Database
from modelshare.server.outages import is_database_away

CACHE_SECONDS: Final = 1.0
"""The maximum age of an entry, in case a notification is lost."""
GRACE_SECONDS: Final = 30.0
_REFRESH_SECONDS: Final = CACHE_SECONDS / 2
"""An entry of this age is refreshed in the background when used, so that callers do not wait."""
_LOOK_SECONDS: Final = 2.0
"""A database that has not responded by then counts as unavailable, if there is an older entry to use instead."""
_PATIENCE_SECONDS: Final = 5.0
"""If there is none."""
_REST_SECONDS: Final = 0.5
"""Between attempts to refresh an entry during an outage."""
_LOADS: Final = 5
"""Maximum number of loads of a value that changes during the load."""
_LIMIT: Final = 50_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Concerns = Callable[[Key, Value], bool]
"""Whether a change concerns this entry."""


class Entry(NamedTuple, Generic[Value]):
    """A cached value."""

    started: float
    """When its load started: the value may be as old as that."""
    value: Value
    is_outdated: bool = False
    """Whether a change was notified during the load, so that it may be outdated."""


class _Load(NamedTuple, Generic[Key, Value]):
    """A running load, shared by all callers that wait for it."""

    task: asyncio.Task[Entry[Value]]
    heard: list[Concerns[Key, Value]]
    """Changes notified since its start."""


class NotifiedCache(Generic[Key, Value]):
    """Caches the results of `load`, by key."""

    def __init__(
        self,
        load: Callable[[Key], Awaitable[Value]],
        clock: Callable[[], float],
        *,
        limit: int = _LIMIT,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`load` reads from the database. `clock` is monotonic. Beyond `limit` entries, the least recently used is
        dropped.

        `grace`: seconds that entries stay valid in an outage of the database.
        """
        self._load = load
        self._clock = clock
        self._limit = limit
        self._grace = grace
        self._entries: OrderedDict[Key, Entry[Value]] = OrderedDict()
        self._loads: dict[Key, _Load[Key, Value]] = {}
        self._away_until: float | None = None
        """In an outage of the database: when to try again."""

    def drop_on(self, database: Database, topic: str, concerns: Callable[[str, Key, Value], bool]) -> None:
        """Drops the entries that a notification of this topic concerns, or all if notifications may have been lost."""
        database.subscribe(
            topic, lambda subject: self.forget(lambda key, value: subject == "*" or concerns(subject, key, value))
        )

    async def get(self, key: Key, *, since: float = -math.inf) -> Value:
        """The entry, loaded if necessary; concurrent callers share a load.

        `since`: a clock time; an older entry is loaded again.
        """
        for _ in range(_LOADS):
            entry = self.known(key)
            if entry is not None and entry.started >= since:
                return entry.value
            oldest = self._clock() - CACHE_SECONDS  # a shared load that started earlier is too old
            try:
                loaded = await asyncio.shield(self._loading(key))
            except Exception as error:
                entry = self.known(key) if is_database_away(error) else None
                if entry is None or entry.started < since:
                    raise
                return entry.value
            if loaded.started >= since and loaded.started > oldest and not loaded.is_outdated:
                break
        # It changes all the time, but this load started after the call, so the value is recent enough.
        return loaded.value

    def known(self, key: Key) -> Entry[Value] | None:
        """The entry whose value `get` would return without waiting; None if it has to be loaded. Starts a refresh if it
        is getting old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        age = now - entry.started
        if age >= _REFRESH_SECONDS:
            if age >= CACHE_SECONDS + (0 if self._away_until is None else self._grace):
                return None
            if now >= (self._away_until or -math.inf):
                self._loading(key)
        self._entries.move_to_end(key)
        return entry

    def forget(self, concerns: Concerns[Key, Value]) -> None:
        """Drops all entries that a change concerns, immediately."""
        for load in self._loads.values():
            load.heard.append(concerns)
        for key, entry in list(self._entries.items()):
            if concerns(key, entry.value):
                del self._entries[key]

    async def stop(self) -> None:
        """Cancels running loads; call it before the database is closed."""
        tasks = [load.task for load in self._loads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _loading(self, key: Key) -> asyncio.Task[Entry[Value]]:
        load = self._loads.get(key)
        if load is None:
            heard: list[Concerns[Key, Value]] = []
            load = self._loads[key] = _Load(asyncio.create_task(self._run_load(key, heard)), heard)
            # Marks an error as retrieved, since all callers may have been cancelled.
            load.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return load.task

    async def _run_load(self, key: Key, heard: list[Concerns[Key, Value]]) -> Entry[Value]:
        started = self._clock()
        try:
            value = await self._load_in_time(key)
        except Exception as error:
            if is_database_away(error):
                self._away_until = self._clock() + _REST_SECONDS
            raise
        finally:
            del self._loads[key]
        self._away_until = None
        if any(concerns(key, value) for concerns in heard):
            return Entry(started, value, is_outdated=True)
        entry = self._entries[key] = Entry(started, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return entry

    async def _load_in_time(self, key: Key) -> Value:
        if key in self._entries:
            try:
                return await within(_LOOK_SECONDS, self._load(key))
            except TimeoutError:
                if key in self._entries:
                    raise
        return await within(_PATIENCE_SECONDS, self._load(key))
