"""What a process remembers of the database: for a second, and never what is from before a change it has heard of."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

CACHE_SECONDS = 1.0
"""The longest a process may go by what it remembers, should a notification be lost."""
_LOOKS: Final = 5
"""How often something is looked at that changes again while it is."""


class Rememberable(Protocol):
    @property
    def subject(self) -> str | None:
        """What notifications of its changes name; None where there is nothing that could change."""
        ...


Name = TypeVar("Name", bound=Hashable)
Known = TypeVar("Known", bound=Rememberable)


class _Entry(NamedTuple, Generic[Known]):
    loaded: float
    known: Known


class Memory(Generic[Name, Known]):
    """The last answers of `look`, by what was asked for."""

    def __init__(self, look: Callable[[Name], Awaitable[Known]], clock: Callable[[], float], most: int) -> None:
        """`look` asks the database; `most` answers are kept, those that were asked for last."""
        self._look = look
        self._clock = clock
        self._most = most
        self._entries: OrderedDict[Name, _Entry[Known]] = OrderedDict()
        self._looking: list[set[str]] = []
        """For each look at the database under way: which subjects were heard to have changed meanwhile."""

    async def get(self, name: Name) -> Known:
        now = self._clock()
        entry = self._entries.get(name)
        if entry is not None and now - entry.loaded < CACHE_SECONDS:
            return entry.known
        for _ in range(_LOOKS):
            changed = set[str]()
            self._looking.append(changed)
            try:
                known = await self._look(name)
            finally:
                self._looking = [each for each in self._looking if each is not changed]
            if known.subject is None or changed.isdisjoint({"*", known.subject}):
                self._remember(name, _Entry(now, known))
                break
        # One that changes all the time: this look began after it was asked for, and that is all that can be had.
        return known

    def forget(self, subject: str) -> None:
        """Whatever is remembered of this subject; "*" for everything."""
        for changed in self._looking:
            changed.add(subject)
        for name, entry in list(self._entries.items()):
            if subject in {"*", entry.known.subject}:
                del self._entries[name]

    def _remember(self, name: Name, entry: _Entry[Known]) -> None:
        self._entries[name] = entry
        self._entries.move_to_end(name)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
