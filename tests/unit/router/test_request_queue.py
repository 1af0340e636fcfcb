"""Whose turn it is, and how many may wait."""

import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.endpoints.policy import WaitingRequests
from modelshare.server.errors import RateLimitedError
from modelshare.server.router.request_queue import (
    MAX_BYTES_OF_PROJECT,
    MAX_WAITING,
    MAX_WAITING_OF_PROJECT,
    FairQueue,
    Patience,
    Place,
    RequestQueue,
    Ticket,
)
from modelshare.wire.errors import ErrorCode
from modelshare.wire.tiers import Tier, TierCategory

PROJECTS = "abcd"
WEIGHTS = st.dictionaries(st.sampled_from(PROJECTS), st.sampled_from([0.25, 0.5, 1, 2, 3, 7]), min_size=2)
STEPS = st.lists(st.one_of(st.sampled_from(PROJECTS), st.none()), max_size=60)
"""A project puts an item, or (None) one has its turn."""


def take(queue: FairQueue[Any]) -> Any:
    """Gives the next item its turn."""
    item = next(queue.next())
    queue.take(item)
    return item


@given(WEIGHTS, st.integers(1, 300))
def test_shares_follow_the_weights(weights: dict[str, float], turns: int) -> None:
    queue = FairQueue[tuple[str, int]]()
    for project, weight in weights.items():
        for number in range(turns):
            queue.put(project, (project, number), weight)
    served = Counter(take(queue)[0] for _ in range(turns))
    for one, weight in weights.items():
        for other, its in weights.items():
            assert served[one] / weight - served[other] / its <= 1 / weight + 1 / its + 1e-9


@given(STEPS, WEIGHTS)
def test_nobody_starves_and_each_projects_order_is_kept(steps: list[str | None], weights: dict[str, float]) -> None:
    queue = FairQueue[tuple[str, int]]()
    waiting: dict[str, list[tuple[str, int]]] = {project: [] for project in PROJECTS}
    since: dict[str, Counter[str]] = {}  # the turns of others while a project's first item waits
    for number, project in enumerate([*steps, *[None] * len(steps)]):
        if project is not None:
            waiting[project].append((project, number))
            queue.put(project, (project, number), weights.get(project, 1))
            since.setdefault(project, Counter())
        elif queue:
            item = take(queue)
            turn = item[0]
            assert waiting[turn].pop(0) == item
            del since[turn]
            for other, turns in since.items():
                turns[turn] += 1
                assert turns[turn] <= weights.get(turn, 1) / weights.get(other, 1) + 1 + 1e-9
            if waiting[turn]:
                since[turn] = Counter()
    assert not queue
    assert not any(waiting.values())


@given(STEPS, st.data())
def test_the_place_is_the_turn_if_nothing_else_comes(steps: list[str | None], data: st.DataObject) -> None:
    queue, waiting = FairQueue[tuple[str, int]](), []
    for number, project in enumerate(steps):
        if project is not None:
            queue.put(project, (project, number), PROJECTS.index(project) + 1.0 if project != "c" else 4.0)
            waiting.append((project, number))
        elif queue:
            waiting.remove(take(queue))
    if waiting:
        left = data.draw(st.sampled_from(waiting))
        queue.remove(*(left[0], left))
        waiting.remove(left)
    places = {item: queue.place(item[0], item) for item in waiting}
    assert {take(queue): number for number in range(1, len(waiting) + 1)} == places


def test_a_project_that_was_away_saved_up_no_turns_and_one_that_came_back_lost_none() -> None:
    queue = FairQueue[tuple[str, int]]()
    for number in range(20):
        queue.put("a", ("a", number))
    for _ in range(10):
        take(queue)
    for number in range(10):
        queue.put("b", ("b", number))
    assert Counter(take(queue)[0] for _ in range(10)) == {"a": 5, "b": 5}


def test_what_is_put_first_has_the_projects_next_turn() -> None:
    queue = FairQueue[str]()
    for item in ("one", "two"):
        queue.put("a", item)
    queue.put("a", "back", is_first=True)
    assert [take(queue) for _ in range(3)] == ["back", "one", "two"]
    assert list(queue.next()) == []


class Waiting:
    """A request that waits until it is told that it may go on."""

    refusal = RateLimitedError("Too many.")

    def __init__(self, name: str, gone: list[str]) -> None:
        self.name = name
        self.gone = gone
        self.may = False
        self.blocks_others = True

    def try_turn(self) -> bool:
        return self.may

    def go_on(self) -> None:
        self.gone.append(self.name)


class Room:
    """A queue whose callbacks are run by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.figures = WaitingRequests(lambda: self.now)
        self.steps: list[Any] = []
        self.queue = RequestQueue(self.figures, self.steps.append)
        self.gone: list[str] = []

    def enter(self, name: str, *subjects: str, project: str = "p", size: int = 0) -> tuple[Waiting, Ticket] | None:
        waiting = Waiting(name, self.gone)
        ticket = Ticket(waiting, project, ENDPOINT, 1.0, subjects, size, self.now)
        return (waiting, ticket) if self.queue.enter(ticket) else None

    def run(self) -> None:
        while self.steps:
            self.steps.pop(0)()


ENDPOINT = uuid.uuid4()
TIER = Tier(
    slug="free",
    name="Free",
    category=TierCategory.FREE,
    max_concurrent_requests=1,
    request_timeout_seconds=1,
    stream_idle_timeout_seconds=1,
    may_evict=True,
    queue_seconds=5,
)


def test_they_go_on_in_order_when_something_is_freed() -> None:
    room = Room()
    entered = [room.enter(name, "x") for name in ("one", "two", "three")]
    (one, _), (two, _), (_, third) = [each for each in entered if each]
    room.run()
    two.may = True
    room.queue.freed("x", "y")
    room.run()
    assert room.gone == [], "nobody overtakes the first"
    assert room.queue.place(third) == Place(3, 3)
    one.may = True
    room.queue.freed("x")
    room.run()
    assert (room.gone, room.queue.count, room.queue.length("x")) == (["one", "two"], 1, 1)
    room.queue.leave(third)
    assert (room.queue.count, room.queue.first("x")) == (0, None)


def test_who_waits_for_something_of_its_own_blocks_nobody() -> None:
    room = Room()
    entered = [room.enter(name, "x") for name in ("one", "two", "three")]
    (one, _), (two, _), (three, _) = [each for each in entered if each]
    one.blocks_others = False
    two.may = three.may = True
    room.queue.freed("x")
    room.run()
    assert (room.gone, room.queue.first("x")) == (["two", "three"], one)


def test_who_waits_for_any_of_several_leaves_all_of_them() -> None:
    room = Room()
    found = room.enter("one", "x", "y")
    assert found is not None
    found[0].may = True
    room.queue.freed("y")
    room.run()
    assert (room.gone, room.queue.length("x"), room.queue.length("y")) == (["one"], 0, 0)


def test_what_is_freed_unnoticed_is_found_later() -> None:
    room = Room()
    found = room.enter("one", "x")
    assert found is not None
    found[0].may = True
    room.queue.serve_all()
    assert room.gone == ["one"]


def test_no_project_takes_all_the_space() -> None:
    room = Room()
    entered = [room.enter("many", "x") for _ in range(MAX_WAITING_OF_PROJECT + 1)]
    assert entered[-1] is None
    assert None not in entered[:-1]
    assert room.enter("another", "x", project="other", size=MAX_BYTES_OF_PROJECT)
    assert room.enter("large", "x", project="other", size=1) is None
    assert room.enter("third", "x", project="third", size=MAX_BYTES_OF_PROJECT)
    assert room.enter("fourth", "x", project="fourth", size=1) is None, "the bodies of all are too long together"
    for number in range(MAX_WAITING):
        room.enter("more", "x", project=str(number))
    assert room.queue.count == MAX_WAITING
    first = entered[0]
    assert first is not None
    room.queue.leave(first[1])
    assert room.enter("again", "x", project="last")


def test_how_many_wait_is_known_by_endpoint() -> None:
    room = Room()
    found = room.enter("one", "x")
    assert found is not None
    room.now += 2.5
    room.enter("two", "y")
    figures = room.figures.of(ENDPOINT, TIER)
    assert figures is not None
    assert (figures.waiting, figures.longest_seconds) == (2, 2.5)
    room.queue.leave(found[1])
    figures = room.figures.of(ENDPOINT, TIER)
    assert figures is not None
    assert (figures.waiting, figures.longest_seconds) == (1, 0)
    assert room.figures.of(ENDPOINT, TIER.model_copy(update={"queue_seconds": 0})) is None


def patience(room: Room, **limits: Any) -> Patience:
    return Patience(room.queue, "p", ENDPOINT, TIER.model_copy(update=limits), lambda: room.now)


BUSY = RateLimitedError("Too many at once.", code=ErrorCode.CAPACITY_EXCEEDED, retry_after=60)
OFTEN = RateLimitedError("Too many.", code=ErrorCode.RATE_LIMIT_EXCEEDED, retry_after=2)


@pytest.mark.parametrize(
    ("others", "refusal", "per_minute", "retry_after"),
    [
        (0, OFTEN, 60, None),
        (2, OFTEN, 60, None),
        (3, OFTEN, 60, 5),
        (3, OFTEN, 120, None),
        (100, BUSY, 60, None),
        (0, RateLimitedError("Later.", code=ErrorCode.RATE_LIMIT_EXCEEDED, retry_after=5), None, 5),
    ],
    ids=["soon", "behind two", "behind too many", "behind as many but quicker", "until one has finished", "too late"],
)
def test_who_would_wait_too_long_is_told_when_to_come(
    others: int, refusal: RateLimitedError, per_minute: int | None, retry_after: int | None
) -> None:
    waits = patience(Room(), requests_per_minute=per_minute)
    if retry_after is None:
        waits.check(others, refusal)
    else:
        with pytest.raises(RateLimitedError) as error:
            waits.check(others, refusal)
        assert error.value.retry_after == retry_after


def test_all_waits_of_a_request_together_have_a_limit() -> None:
    room = Room()
    waits = patience(room)
    assert waits.begin(Waiting("one", []), ["x"])
    room.now += 4
    assert waits.place == Place(1, 1)
    waits.leave()
    assert waits.begin(Waiting("one", []), ["y"])
    room.now += 0.5
    waits.leave()
    assert waits.headers() == [(b"x-queue-seconds", b"4.500")]
    room.now += 0.5
    assert not waits.begin(Waiting("one", []), ["y"])


def test_a_tier_without_a_queue_lets_nobody_wait() -> None:
    with pytest.raises(RateLimitedError, match="at once"):
        patience(Room(), queue_seconds=0).check(0, BUSY)
