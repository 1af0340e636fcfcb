"""What a process remembers of the database: for a second, and never what is from before a change it has heard of.

While the database cannot be asked, entries live on for a grace period; but never those that a notification named, which
are dropped, and never against an answer.
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
"""The longest a process may use what it remembers, should a notification be lost."""
GRACE_SECONDS: Final = 30.0
_REFRESH_SECONDS: Final = CACHE_SECONDS / 2
"""An entry of this age is loaded again while it is still used, so that nobody waits."""
_LOOK_SECONDS: Final = 2.0
"""A database that has not answered by then counts as away."""
_REST_SECONDS: Final = 0.5
"""Between attempts to refresh an entry while the database is away."""
_LOADS: Final = 5
"""How often a value is loaded again that changes while it is loaded."""
_LIMIT: Final = 50_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Concerns = Callable[[Key, Value], bool]
"""Whether a change concerns this entry."""


class _Entry(NamedTuple, Generic[Value]):
    started: float
    """When its load began, not when it ended: the value may be as old as that."""
    value: Value
    is_outdated: bool = False
    """It may be from before a change that was heard of during the load."""


class _Load(NamedTuple, Generic[Key, Value]):
    """One question to the database, shared by those who ask meanwhile."""

    task: asyncio.Task[_Entry[Value]]
    heard: list[Concerns[Key, Value]]
    """Changes heard of since it began."""


class NotifiedCache(Generic[Key, Value]):
    """The last answers of `load`, by key."""

    def __init__(
        self,
        load: Callable[[Key], Awaitable[Value]],
        clock: Callable[[], float],
        *,
        limit: int = _LIMIT,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`load` asks the database; `clock` never goes back; beyond `limit` entries the least recently used goes.

        `grace`: seconds that entries live on while the database cannot be asked.
        """
        self._load = load
        self._clock = clock
        self._limit = limit
        self._grace = grace
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._loads: dict[Key, _Load[Key, Value]] = {}
        self._away_until: float | None = None
        """While the database is away: when it is asked again."""

    def drop_on(self, database: Database, topic: str, concerns: Callable[[str, Key, Value], bool]) -> None:
        """Drops what a notification of this topic concerns, by its subject; or everything, where some may be lost."""
        database.subscribe(
            topic, lambda subject: self.forget(lambda key, value: subject == "*" or concerns(subject, key, value))
        )

    async def get(self, key: Key, *, since: float = -math.inf) -> Value:
        """The entry, or what the database answers; those who ask at once share one load.

        `since`, by the clock: what was read before then is too old.
        """
        for _ in range(_LOADS):
            entry = self._usable(key, since)
            if entry is not None:
                return entry.value
            oldest = self._clock() - CACHE_SECONDS  # a load that others began before that would bring what is as old
            try:
                loaded = await asyncio.shield(self._loading(key))
            except Exception as error:
                entry = self._usable(key, since) if is_database_away(error) else None
                if entry is None:
                    raise
                return entry.value
            if loaded.started >= since and loaded.started > oldest and not loaded.is_outdated:
                break
        # One that changes all the time: this load began after it was asked for, and that is all that can be had.
        return loaded.value

    def forget(self, concerns: Concerns[Key, Value]) -> None:
        """Drops whatever a change concerns, at once."""
        for load in self._loads.values():
            load.heard.append(concerns)
        for key, entry in list(self._entries.items()):
            if concerns(key, entry.value):
                del self._entries[key]

    async def stop(self) -> None:
        """Ends the loads that are under way; call it before the database is closed."""
        tasks = [load.task for load in self._loads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _usable(self, key: Key, since: float) -> _Entry[Value] | None:
        """The entry while it may be used; refreshes it in time."""
        entry = self._entries.get(key)
        if entry is None or entry.started < since:
            return None
        now = self._clock()
        age = now - entry.started
        if age >= CACHE_SECONDS + (0 if self._away_until is None else self._grace):
            return None
        if age >= _REFRESH_SECONDS and now >= (self._away_until or -math.inf):
            self._loading(key)
        self._entries.move_to_end(key)
        return entry

    def _loading(self, key: Key) -> asyncio.Task[_Entry[Value]]:
        load = self._loads.get(key)
        if load is None:
            heard: list[Concerns[Key, Value]] = []
            load = self._loads[key] = _Load(asyncio.create_task(self._run_load(key, heard)), heard)
            # Whoever waited may have left: nobody else would take notice of an error.
            load.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return load.task

    async def _run_load(self, key: Key, heard: list[Concerns[Key, Value]]) -> _Entry[Value]:
        started = self._clock()
        try:
            value = await within(_LOOK_SECONDS, self._load(key))
        except Exception as error:
            if is_database_away(error):
                self._away_until = self._clock() + _REST_SECONDS
            raise
        finally:
            del self._loads[key]
        self._away_until = None
        if any(concerns(key, value) for concerns in heard):
            return _Entry(started, value, is_outdated=True)
        entry = self._entries[key] = _Entry(started, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return entry
