"""What a process remembers of the database: for a second, and never what is from before a change it has heard of.

While the database cannot be asked, what was known goes on for a grace: but never what a notification named, which is
forgotten, and never against an answer.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from modelshare.server.outages import is_database_away

CACHE_SECONDS: Final = 1.0
"""The longest a process may go by what it remembers, should a notification be lost."""
GRACE_SECONDS: Final = 30.0
_REFRESH_SECONDS: Final = CACHE_SECONDS / 2
"""What is so old is looked at anew while it is still gone by, so that nobody waits."""
_LOOK_SECONDS: Final = 2.0
"""A database that has not answered by then cannot be asked."""
_REST_SECONDS: Final = 0.5
"""Between looks at a database that is away, for what is known."""
_LOOKS: Final = 5
"""How often something is looked at that changes again while it is."""
_MAX: Final = 50_000

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")
Concerns = Callable[[Name, Value], bool]
"""Whether a change is one of this."""


class _Known(NamedTuple, Generic[Value]):
    started: float
    """When it was looked for, not when it was found: it may be as old as that."""
    value: Value
    is_outdated: bool = False
    """It may be from before a change that was heard of while it was looked for."""


@dataclass(frozen=True, slots=True)
class _Look(Generic[Name, Value]):
    """One look at the database, shared by those who ask meanwhile."""

    task: asyncio.Task[_Known[Value]]
    heard: list[Concerns[Name, Value]] = field(default_factory=list)
    """Changes heard of since it began."""


class NotifiedCache(Generic[Name, Value]):
    """The last answers of `load`, by what was asked for."""

    def __init__(
        self,
        load: Callable[[Name], Awaitable[Value]],
        clock: Callable[[], float],
        *,
        limit: int = _MAX,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`load` asks the database; `clock` never goes back; `most` answers are kept, those that were asked for last.

        `grace`: seconds that what is known goes on while the database cannot be asked.
        """
        self._load = load
        self._clock = clock
        self._limit = limit
        self._grace = grace
        self._entries: OrderedDict[Name, _Known[Value]] = OrderedDict()
        self._looks: dict[Name, _Look[Name, Value]] = {}
        self._away_until: float | None = None
        """While the database is away: when it is looked for again."""

    async def get(self, name: Name, *, since: float = -math.inf) -> Value:
        """What is known of it, or what a look finds; those who ask at once share one look.

        `since`, by the clock: what was read before then is too old.
        """
        for _ in range(_LOOKS):
            known = self._going_by(name, since)
            if known is not None:
                return known.value
            try:
                found = await asyncio.shield(self._look(name).task)
            except Exception as error:
                known = self._going_by(name, since) if is_database_away(error) else None
                if known is None:
                    raise
                return known.value
            if found.started >= since and not found.is_outdated:
                break
        # One that changes all the time: this look began after it was asked for, and that is all that can be had.
        return found.value

    def forget(self, concerns: Concerns[Name, Value]) -> None:
        """Whatever a change concerns, at once."""
        for look in self._looks.values():
            look.heard.append(concerns)
        for name, known in list(self._entries.items()):
            if concerns(name, known.value):
                del self._entries[name]

    async def stop(self) -> None:
        """Ends the looks that are under way; call it before the database is closed."""
        tasks = [look.task for look in self._looks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _going_by(self, name: Name, since: float) -> _Known[Value] | None:
        """What is known, while it may be gone by; looks at it anew in time."""
        known = self._entries.get(name)
        if known is None or known.started < since:
            return None
        now = self._clock()
        age = now - known.started
        if age >= CACHE_SECONDS + (0 if self._away_until is None else self._grace):
            return None
        if age >= _REFRESH_SECONDS and now >= (self._away_until or -math.inf):
            self._look(name)
        return known

    def _look(self, name: Name) -> _Look[Name, Value]:
        look = self._looks.get(name)
        if look is None:
            heard: list[Concerns[Name, Value]] = []
            look = self._looks[name] = _Look(asyncio.create_task(self._find(name, heard)), heard)
            # Whoever waited may have left: nobody else would take notice of an error.
            look.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return look

    async def _find(self, name: Name, heard: list[Concerns[Name, Value]]) -> _Known[Value]:
        started = self._clock()
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                value = await self._load(name)
        except Exception as error:
            if is_database_away(error):
                self._away_until = self._clock() + _REST_SECONDS
            raise
        finally:
            del self._looks[name]
        self._away_until = None
        if any(concerns(name, value) for concerns in heard):
            return _Known(started, value, is_outdated=True)
        known = self._entries[name] = _Known(started, value)
        self._entries.move_to_end(name)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return known
