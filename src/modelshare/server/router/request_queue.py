"""Requests that wait for their turn instead of being refused: at an endpoint's limits, or for a free slot of an engine.

What a request waits for, and how it goes on, is its own. Each process has a queue of its own.
"""

import math
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from modelshare.server.endpoints.policy import WaitingRequests
from modelshare.server.errors import RateLimitedError
from modelshare.wire.errors import ErrorCode
from modelshare.wire.tiers import Tier

Item = TypeVar("Item", bound=Hashable)

MAX_WAITING: Final = 4096
MAX_WAITING_OF_PROJECT: Final = 512
MAX_BYTES: Final = 64 << 20
"""Of the bodies of all requests that wait."""
MAX_BYTES_OF_PROJECT: Final = 32 << 20


class _Line(Generic[Item]):
    """The items of one project."""

    __slots__ = ("items", "tag", "weight")

    def __init__(self, tag: float) -> None:
        self.items: OrderedDict[Item, None] = OrderedDict()
        self.weight = 1.0
        self.tag = tag
        """When the first item's turn is, in virtual time."""


class FairQueue(Generic[Item]):
    """Items of several projects, in turns: start-time fair queueing (https://doi.org/10.1109/90.649569).

    Projects that always have items get turns in proportion to their weights, within one turn of each. A project's own
    items keep their order. One that was away saved up no turns.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line[Item]] = {}
        self._now = 0.0
        """The tag of the last turn."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, project: str, item: Item, weight: float = 1.0, *, is_first: bool = False) -> None:
        """`is_first`: before the project's other items."""
        line = self._lines.get(project)
        if line is None:
            line = self._lines[project] = _Line(self._now)
        elif not line.items:
            line.tag = max(line.tag, self._now)
        line.weight = weight
        line.items[item] = None
        if is_first:
            line.items.move_to_end(item, last=False)
        self._count += 1

    def remove(self, project: str, item: Item) -> None:
        """Removes an item that had no turn."""
        del self._lines[project].items[item]
        self._count -= 1
        self._forget_idle()

    def next(self) -> Iterator[Item]:
        """The items of the project whose turn it is, in order."""
        line = self._next()
        return iter(()) if line is None else iter(line.items)

    def take(self, item: Item) -> None:
        """Gives one of `next` its turn, and removes it."""
        line = self._next()
        assert line is not None  # noqa: S101 - the item is in it
        del line.items[item]
        self._count -= 1
        self._now = line.tag
        line.tag += 1 / line.weight
        self._forget_idle()

    def place(self, project: str, item: Item) -> int:
        """Which turn will be the item's, from 1, if nothing else comes."""
        line = self._lines[project]
        ahead = next(number for number, each in enumerate(line.items) if each == item)
        tag = line.tag + ahead / line.weight
        before, is_earlier = 0, True
        for each in self._lines.values():
            if each is line:
                is_earlier = False  # among equals, the first one is next
            elif each.tag <= tag:
                turns = (tag - each.tag) * each.weight
                before += min(len(each.items), math.floor(turns) + 1 if is_earlier else math.ceil(turns))
        return 1 + ahead + before

    def _next(self) -> _Line[Item] | None:
        return min((line for line in self._lines.values() if line.items), key=lambda line: line.tag, default=None)

    def _forget_idle(self) -> None:
        """Nothing has to be remembered of an idle project once the others have caught up with it."""
        known = self._lines.items()
        self._lines = {name: line for name, line in known if line.items or (self._count and line.tag > self._now)}


class Waiter(Protocol):
    """A request that waits."""

    @property
    def refusal(self) -> RateLimitedError:
        """Why it cannot go on."""
        ...

    @property
    def blocks_others(self) -> bool:
        """Whether those behind it could not go on either, as far as it is known."""
        ...

    def try_turn(self) -> bool:
        """It is its turn, perhaps not for the first time. Returns whether it has what it waits for."""
        ...

    def go_on(self) -> None:
        """It has left the queue."""
        ...


class Ticket(NamedTuple):
    """A place in the queue."""

    waiter: Waiter
    project_id: str
    endpoint_id: uuid.UUID
    weight: float
    subjects: tuple[Hashable, ...]
    """What it waits for: one of them."""
    size: int
    """Bytes that are kept for it."""
    since: float
    """When it began to wait, by a monotonic clock."""


class Place(NamedTuple):
    number: int
    length: int


class RequestQueue:
    """Those of one process, by what they wait for."""

    def __init__(self, waiting: WaitingRequests, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """`waiting`: counts them. `call_soon`: calls back after the present callback."""
        self._waiting = waiting
        self._call_soon = call_soon
        self._queues: dict[Hashable, FairQueue[Ticket]] = {}
        self._sizes: dict[str, list[int]] = {}
        """Number and bytes by project."""
        self.count = 0
        """Number of waiting requests."""
        self._bytes = 0
        self._freed: set[Hashable] = set()

    def length(self, subject: Hashable) -> int:
        return len(self._queues.get(subject, ()))

    def first(self, subject: Hashable) -> Waiter | None:
        """Whose turn is next."""
        ticket = next(self._queues[subject].next(), None) if subject in self._queues else None
        return None if ticket is None else ticket.waiter

    def enter(self, ticket: Ticket, *, is_first: bool = False) -> bool:
        """Returns False if there is no space for it. `is_first`: before the project's other ones."""
        count, size = self._sizes.get(ticket.project_id, (0, 0))
        if (
            self.count >= MAX_WAITING
            or count >= MAX_WAITING_OF_PROJECT
            or self._bytes + ticket.size > MAX_BYTES
            or size + ticket.size > MAX_BYTES_OF_PROJECT
        ):
            return False
        self.count += 1
        self._bytes += ticket.size
        self._sizes[ticket.project_id] = [count + 1, size + ticket.size]
        self._waiting.begin(ticket.endpoint_id, ticket, ticket.since)
        for subject in ticket.subjects:
            queue = self._queues.setdefault(subject, FairQueue())
            queue.put(ticket.project_id, ticket, ticket.weight, is_first=is_first)
        self.freed(*ticket.subjects)
        return True

    def leave(self, ticket: Ticket) -> None:
        """It gives up its place."""
        self._leave(ticket, ticket.subjects)

    def place(self, ticket: Ticket) -> Place:
        """The best of its places."""
        queues = [self._queues[subject] for subject in ticket.subjects]
        return min(Place(each.place(ticket.project_id, ticket), len(each)) for each in queues)

    def freed(self, *subjects: Hashable) -> None:
        """Something was freed: lets those go on that waited for it, after the present callback."""
        found = [each for each in subjects if each in self._queues]
        if found and not self._freed:
            self._call_soon(self._serve_freed)
        self._freed.update(found)

    def serve_all(self) -> None:
        """Lets all go on that can, whatever was freed and how."""
        for subject in list(self._queues):
            self._serve(subject)

    def _serve_freed(self) -> None:
        subjects, self._freed = self._freed, set()
        for subject in subjects:
            self._serve(subject)

    def _serve(self, subject: Hashable) -> None:
        while (queue := self._queues.get(subject)) is not None and (ticket := _ready(queue)) is not None:
            queue.take(ticket)
            self._leave(ticket, [each for each in ticket.subjects if each != subject])
            self._drop_empty((subject,))
            ticket.waiter.go_on()

    def _leave(self, ticket: Ticket, subjects: Iterable[Hashable]) -> None:
        for subject in subjects:
            self._queues[subject].remove(ticket.project_id, ticket)
        self._drop_empty(subjects)
        self._waiting.end(ticket.endpoint_id, ticket)
        self.count -= 1
        self._bytes -= ticket.size
        sizes = self._sizes[ticket.project_id]
        sizes[0] -= 1
        sizes[1] -= ticket.size
        if not sizes[0]:
            del self._sizes[ticket.project_id]

    def _drop_empty(self, subjects: Iterable[Hashable]) -> None:
        for subject in subjects:
            if subject in self._queues and not self._queues[subject]:
                del self._queues[subject]


def _ready(queue: FairQueue[Ticket]) -> Ticket | None:
    """The first one that can go on, unless one before it blocks it."""
    for ticket in queue.next():
        if ticket.waiter.try_turn():
            return ticket
        if ticket.waiter.blocks_others:
            break
    return None


class Patience:
    """How long one request waits: at most its tier's `queue_seconds`, in one part or several."""

    def __init__(
        self, queue: RequestQueue, project_id: str, endpoint_id: uuid.UUID, tier: Tier, clock: Callable[[], float]
    ) -> None:
        """`clock` is monotonic, in seconds."""
        self.until = clock() + tier.queue_seconds
        self._queue = queue
        self._project_id = project_id
        self._endpoint_id = endpoint_id
        self._tier = tier
        self._clock = clock
        self._ticket: Ticket | None = None
        self.seconds = 0.0
        """How long it has waited."""

    @property
    def is_waiting(self) -> bool:
        return self._ticket is not None

    def headers(self, place: Place | None = None) -> list[tuple[bytes, bytes]]:
        """How long the request waited, and, if in vain, at which place."""
        found = [(b"x-queue-seconds", b"%.3f" % self.seconds)] if self.seconds else []
        if place is not None:
            found += [(b"x-queue-place", b"%d" % place.number), (b"x-queue-length", b"%d" % place.length)]
        return found

    def begin(self, waiter: Waiter, subjects: Iterable[Hashable], size: int = 0, *, is_first: bool = False) -> bool:
        """Enters the queue for one of the subjects. Returns False if there is no time or space left."""
        project_id, now = self._project_id, self._clock()
        weight = self._tier.weights.get(project_id, 1.0)
        ticket = Ticket(waiter, project_id, self._endpoint_id, weight, tuple(subjects), size, now)
        if now >= self.until or not self._queue.enter(ticket, is_first=is_first):
            return False
        self._ticket = ticket
        return True

    def check(self, others: int, refusal: RateLimitedError) -> None:
        """Raises RateLimitedError if there is not enough time. `others` wait already, and `refusal` says why."""
        seconds = 0 if refusal.code is ErrorCode.CAPACITY_EXCEEDED else refusal.retry_after or 0
        per_minute = self._tier.requests_per_minute
        if seconds and others and per_minute:
            seconds += math.ceil(others * 60 / per_minute)
            refusal = RateLimitedError(
                f"{others} requests of this endpoint wait already, and its tier allows {per_minute} per minute. "
                f"Try again in {seconds} s.",
                code=refusal.code,
                retry_after=seconds,
            )
        if self._clock() + seconds >= self.until:
            raise refusal

    @property
    def place(self) -> Place:
        assert self._ticket is not None  # noqa: S101 - see `is_waiting`
        return self._queue.place(self._ticket)

    def leave(self) -> None:
        """Gives up the place in the queue."""
        assert self._ticket is not None  # noqa: S101 - see `is_waiting`
        self._queue.leave(self._ticket)
        self.has_left()

    def over(self, refusal: RateLimitedError, place: Place) -> RateLimitedError:
        """The error after it has waited in vain. `refusal`: why it could not go on."""
        return RateLimitedError(
            f"{refusal.message} The request waited for {self.seconds:.0f} s and was at place {place.number} of "
            f"{place.length}.",
            code=refusal.code,
            retry_after=refusal.retry_after,
        )

    def has_left(self) -> None:
        """It had its turn."""
        if self._ticket is not None:
            self.seconds += self._clock() - self._ticket.since
            self._ticket = None
