"""Which connections go when there are too many."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.front.room import GRACE_SECONDS, MOST_AT_ONCE, Room

Guests = list[tuple[str | None, int]]
GUESTS = st.lists(st.tuples(st.sampled_from([None, "a", "b", "c", "d"]), st.integers()), unique=True, max_size=60)
"""Address (None: known) and a number, which tells them apart."""


def room_of(guests: Guests, total: int = 16, per_address: int = 4) -> Room[tuple[str | None, int]]:
    room: Room[tuple[str | None, int]] = Room(total, per_address)
    for now, guest in enumerate(guests):
        room.waits(guest, guest[0], now)
    return room


@given(GUESTS, st.integers(0, 200))
def test_as_much_room_as_is_needed(guests: Guests, taken: int) -> None:
    going = room_of(guests).make(taken)
    assert len(going) == len(set(going))
    assert set(going) <= set(guests)
    needed = taken - 16 + 1 if taken > 16 else 0
    assert len(going) == min(needed, len(guests))


@given(GUESTS, st.integers(17, 76))
def test_the_greediest_lose_first(guests: Guests, taken: int) -> None:
    """Nobody goes while another stranger keeps more than twice as many; known ones go when no stranger is left."""
    going = room_of(guests).make(taken)
    kept = Counter(address for address, _ in guests if address) - Counter(address for address, _ in going if address)
    had = Counter(address for address, _ in guests if address)
    for address, _ in going:
        if address is None:
            assert not kept
        else:
            assert max(kept.values(), default=0) <= 2 * had[address]


@given(GUESTS, st.integers(17, 76))
def test_the_longest_silent_of_an_address_go_first(guests: Guests, taken: int) -> None:
    going = set(room_of(guests).make(taken))
    for address in {address for address, _ in guests}:
        own = [guest in going for guest in guests if guest[0] == address]
        assert own == sorted(own, reverse=True)


@given(GUESTS)
def test_beyond_the_limit_of_an_address(guests: Guests) -> None:
    now = len(guests) + GRACE_SECONDS
    going = Counter(address for address, _ in room_of(guests).beyond(now))
    for address, count in Counter(address for address, _ in guests).items():
        assert going[address] == (max(count - 4, 0) if address else 0)


def test_many_that_open_at_once_are_no_attack() -> None:
    room: Room[int] = Room(1000, 4)
    for guest in range(100):
        room.waits(guest, "a", 10.0)
    assert room.beyond(10.0 + GRACE_SECONDS / 2) == []
    for count in (MOST_AT_ONCE, 96 - MOST_AT_ONCE, 0):
        going = room.beyond(10.0 + GRACE_SECONDS)
        assert len(going) == count
        for guest in going:
            room.leaves(guest, "a")


def test_a_stranger_who_opens_each_anew_is_closed_no_faster_for_it() -> None:
    room: Room[int] = Room(1000, 4)
    for guest in range(900):
        room.waits(guest, "a", 0.0)
    closed = 0
    for sweep in range(100):
        for guest in room.beyond(10.0 + sweep):
            room.leaves(guest, "a")
            room.waits(1000 + closed, "a", 10.0 + sweep)
            closed += 1
    assert closed == 100 * MOST_AT_ONCE


@given(GUESTS)
def test_who_waits_no_longer_is_left_alone(guests: Guests) -> None:
    room = room_of(guests)
    for guest in guests:
        room.leaves(guest, guest[0])
    assert room.make(1000) == []
    assert room.beyond(1e9) == []
