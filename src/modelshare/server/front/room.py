"""Limits the number of connections, and selects which ones to close. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

GRACE_SECONDS: Final = 1.0
"""As long as a connection may be silent however many its address has: many that open at once are no attack."""
_SPARE: Final = 16
"""Frees this fraction of the capacity at once, so that not every new connection has to."""

Guest = TypeVar("Guest")


class Room(Generic[Guest]):
    """The connections that wait for their client, by address, longest first; all others are left alone."""

    def __init__(self, total: int, per_address: int) -> None:
        """`total`: connections of the process; `per_address`: those of one address that wait."""
        self.total = total
        self._per_address = per_address
        self._waiting: dict[str | None, dict[Guest, float]] = {}
        """None: of those that are known, which go last."""

    def waits(self, guest: Guest, address: str | None, now: float) -> None:
        """From now on it is the client's turn. `address` None: known, or of a proxy."""
        self._waiting.setdefault(address, {})[guest] = now

    def leaves(self, guest: Guest, address: str | None) -> None:
        """It waits no longer; `address` as it was given."""
        own = self._waiting[address]
        del own[guest]
        if not own:
            del self._waiting[address]

    def beyond(self, now: float) -> list[Guest]:
        """Those that their address has too many of."""
        return [
            guest
            for address, own in self._waiting.items()
            if address is not None and len(own) > self._per_address
            for guest in _first(own, len(own) - self._per_address)
            if now - own[guest] >= GRACE_SECONDS
        ]

    def make(self, taken: int) -> list[Guest]:
        """Those that go when `taken` connections are more than there may be.

        What each address may keep is halved until there is room: the greediest lose first, and an address with a
        single connection loses it when all the others have but one as well.
        """
        if taken <= self.total:
            return []
        needed = taken - self.total + self.total // _SPARE
        going: dict[Guest, None] = {}
        strangers = [own for address, own in self._waiting.items() if address is not None]
        keep = max(map(len, strangers), default=0)
        while keep and len(going) < needed:
            keep //= 2
            for own in strangers:
                going.update(dict.fromkeys(_first(own, len(own) - keep)))
        going.update(dict.fromkeys(_first(self._waiting.get(None, {}), needed - len(going))))
        return list(_first(going, needed))


class Seat(Generic[Guest]):
    """How one connection counts while it waits: for its address until it is known, then only while it is idle."""

    def __init__(self, room: Room[Guest], guest: Guest) -> None:
        self._room = room
        self._guest = guest
        self.address: str | None = None
        """Whose limits count; None: nobody's."""
        self.is_known = False
        self._taken: tuple[str | None] | None = None
        """As whose it is counted."""

    @property
    def is_taken(self) -> bool:
        return self._taken is not None

    def take(self, now: float, *, is_idle: bool) -> None:
        """From now on it is the client's turn."""
        self.leave()
        address = None if self.is_known else self.address
        if address is not None or is_idle:
            self._room.waits(self._guest, address, now)
            self._taken = (address,)

    def leave(self) -> None:
        if self._taken is not None:
            self._room.leaves(self._guest, self._taken[0])
            self._taken = None


def _first(guests: Iterable[Guest], count: int) -> Iterator[Guest]:
    return (guest for guest, _ in zip(guests, range(max(count, 0)), strict=False))
