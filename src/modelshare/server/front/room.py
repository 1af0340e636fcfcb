"""Limits the number of connections, and selects which ones to close. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

GRACE_SECONDS: Final = 1.0
"""How long a connection may be silent regardless of limits: opening many at once is not an attack."""
MOST_AT_ONCE: Final = 64
"""How many connections `beyond` selects at once. Holding one costs less than closing one whose client connects again
at once; when there is no room for them, `make` selects them."""
_SPARE: Final = 16
"""Frees this fraction of the capacity at once, so that not every new connection has to."""

Guest = TypeVar("Guest")


class Room(Generic[Guest]):
    """The connections that wait for their client, by address, longest waiting first. Others are never closed."""

    def __init__(self, total: int, per_address: int) -> None:
        """`total`: maximum of connections; `per_address`: maximum of waiting connections per address."""
        self.total = total
        self._per_address = per_address
        self._waiting: dict[str | None, dict[Guest, float]] = {}
        """None: authenticated ones, which are closed last."""

    def waits(self, guest: Guest, address: str | None, now: float) -> None:
        """The connection waits for its client from now on. `address` None: authenticated, or of a proxy."""
        self._waiting.setdefault(address, {})[guest] = now

    def leaves(self, guest: Guest, address: str | None) -> None:
        """The connection no longer waits. `address`: as passed to `waits`."""
        own = self._waiting[address]
        del own[guest]
        if not own:
            del self._waiting[address]

    def beyond(self, now: float) -> list[Guest]:
        """Connections beyond the limit of their address, at most `MOST_AT_ONCE`."""
        found = (
            guest
            for address, own in self._waiting.items()
            if address is not None and len(own) > self._per_address
            for guest in _first(own, len(own) - self._per_address)
            if now - own[guest] >= GRACE_SECONDS
        )
        return list(_first(found, MOST_AT_ONCE))

    def make(self, taken: int) -> list[Guest]:
        """The connections to close when there are `taken`, more than the maximum.

        The number that each address may keep is halved until enough are selected: the addresses with most connections
        lose first, and an address with a single one loses it only when all others have one as well.
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
    """How a waiting connection counts: for its address until it is authenticated, then only while it is idle."""

    def __init__(self, room: Room[Guest], guest: Guest) -> None:
        self._room = room
        self._guest: Guest | None = guest
        self.address: str | None = None
        """The address whose limits apply; None: none."""
        self.is_known = False
        self._taken: tuple[str | None] | None = None
        """The address that it is counted for."""

    @property
    def is_taken(self) -> bool:
        return self._taken is not None

    def take(self, now: float, *, is_idle: bool) -> None:
        """The connection waits for its client from now on."""
        self.leave()
        address = None if self.is_known else self.address
        if self._guest is not None and (address is not None or is_idle):
            self._room.waits(self._guest, address, now)
            self._taken = (address,)

    def close(self) -> None:
        """Leaves for good, and forgets its connection, so that both are freed without the garbage collector."""
        self.leave()
        self._guest = None

    def leave(self) -> None:
        if self._taken is not None and self._guest is not None:
            self._room.leaves(self._guest, self._taken[0])
            self._taken = None


def _first(guests: Iterable[Guest], count: int) -> Iterator[Guest]:
    return (guest for guest, _ in zip(guests, range(max(count, 0)), strict=False))
