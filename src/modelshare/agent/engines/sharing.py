"""Shares an engine between projects: fair scheduling of its slots, and isolation of its prompt cache.

Requests without a free slot wait here and not inside the engine, which serves them in order of arrival, so that one
tenant could delay all others.

A free slot is given to the tenant with the fewest running sequences; among equals, to the one whose last turn was the
longest ago. A tenant's own requests keep their order.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from secrets import token_hex
from typing import Final

MAX_WAITING: Final = 1024
"""Maximum number of waiting turns per tenant. There is no total limit, since one tenant could exhaust it."""
_COMPARED_BYTES: Final = 64 << 10
"""Bytes of each slot's last prompt that are compared to find one that has computed the same beginning."""
_MIN_COMMON: Final = 0.1
"""The minimum fraction of a prompt that a slot must have computed in order to be preferred."""


class TooManyWaitingError(Exception):
    """The tenant already has the maximum number of waiting turns."""


class Turn:
    """A tenant's turn, which waits for slots of an engine and then holds them until `close`."""

    def __init__(
        self, queue: "TenantQueue", tenant: str, count: int, prompt: bytes, begin: Callable[["Turn"], None]
    ) -> None:
        self.worked = False
        """Whether the engine has processed the prompt. If it has not, the slots' contents are unchanged."""
        self._queue = queue
        self.tenant = tenant
        self.count = count
        self.prompt = prompt
        self.begin = begin
        self.held: list[_Slot] = []
        self._is_closed = False

    @property
    def slots(self) -> tuple[int, ...]:
        return tuple(slot.number for slot in self.held)

    @property
    def is_own(self) -> bool:
        """Whether the contents of the slots were computed for the same tenant, until `close`."""
        return self.tenant != "" and {slot.tenant for slot in self.held} == {self.tenant}

    def close(self) -> None:
        """Ends the turn, even if it waits. Gives its slots back."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.worked or not self.is_own:
            contents = (self.tenant, self.prompt) if self.worked else ("", b"")  # the latter if they are unknown
            for slot in self.held:
                slot.tenant, slot.prompt = contents
        self._queue.leave(self)


class TenantQueue:
    """The slots of one engine, and the turns that wait for them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = [_Slot(number) for number in range(slots)]
        """The one that has been free for the longest time comes first."""
        self._running: dict[str, int] = {}
        self._waiting: dict[str, OrderedDict[Turn, None]] = {}
        self._last: dict[str, int] = {}
        """Number of the last turn of each tenant that runs or waits."""
        self._count = itertools.count(1)
        self._is_serving = False
        self._surplus = 0
        """Slots in use that end with the turns that hold them."""

    @property
    def running(self) -> int:
        """Number of slots in use."""
        return self.slots - len(self._free)

    @property
    def waiting(self) -> int:
        """Number of waiting turns."""
        return sum(len(queue) for queue in self._waiting.values())

    def resize(self, slots: int) -> None:
        """Changes the number of slots, for an engine that was scaled. What runs goes on."""
        change = slots - (self.slots - self._surplus)
        kept = min(max(change, 0), self._surplus)
        self._surplus -= kept
        self._free += [_Slot(self.slots + number) for number in range(change - kept)]
        self.slots += max(change - kept, 0)
        self._surplus += max(-change, 0)
        self._drop_surplus()
        self._serve()

    def others_wait(self, tenant: str) -> bool:
        """Whether other tenants are waiting."""
        return any(other != tenant for other in self._waiting)

    def turn(self, tenant: str, count: int, prompt: bytes, begin: Callable[[Turn], None]) -> Turn:
        """Calls `begin` as soon as the turn holds `count` slots at once (at most all), maybe before this returns.

        Prefers a slot that has computed the beginning of `prompt` for the same tenant. Raises TooManyWaitingError.
        """
        turn = Turn(self, tenant, min(count, self.slots), prompt[:_COMPARED_BYTES], begin)
        if not self._waiting and turn.count <= len(self._free):
            self._assign(turn)
            begin(turn)
            return turn
        queue = self._waiting.setdefault(tenant, OrderedDict())
        if len(queue) >= MAX_WAITING:
            raise TooManyWaitingError
        queue[turn] = None
        self._serve()
        return turn

    def leave(self, turn: Turn) -> None:
        """For `Turn.close`."""
        tenant = turn.tenant
        if turn.held:
            self._free += turn.held
            if self._surplus:
                self._drop_surplus()
            running = self._running.pop(tenant) - turn.count
            if running:
                self._running[tenant] = running
        else:
            self._remove_waiting(tenant, turn)
        if tenant not in self._running and tenant not in self._waiting:
            self._last.pop(tenant, None)
        if self._waiting:
            self._serve()

    def _drop_surplus(self) -> None:
        dropped = min(self._surplus, len(self._free))
        del self._free[len(self._free) - dropped :]
        self.slots -= dropped
        self._surplus -= dropped

    def _remove_waiting(self, tenant: str, turn: Turn) -> None:
        queue = self._waiting[tenant]
        del queue[turn]
        if not queue:
            del self._waiting[tenant]

    def _serve(self) -> None:
        if self._is_serving:  # a turn ended as soon as it began; the loop below goes on
            return
        self._is_serving = True
        try:
            while (turn := self._next()) is not None:
                turn.begin(turn)
        finally:
            self._is_serving = False

    def _next(self) -> Turn | None:
        """Assigns slots to the next turn, if there are enough for it."""
        if not self._waiting:
            return None
        tenant = min(self._waiting, key=lambda one: (self._running.get(one, 0), self._last.get(one, 0)))
        turn = next(iter(self._waiting[tenant]))
        turn.count = min(turn.count, self.slots)
        if turn.count > len(self._free):
            return None  # no overtaking, or else a large request would never get enough slots
        self._remove_waiting(tenant, turn)
        self._assign(turn)
        return turn

    def _assign(self, turn: Turn) -> None:
        tenant = turn.tenant
        self._running[tenant] = self._running.get(tenant, 0) + turn.count
        self._last[tenant] = next(self._count)
        if turn.prompt:
            turn.held = [self._pick(tenant, turn.prompt) for _ in range(turn.count)]
        else:
            turn.held = self._free[: turn.count]
            del self._free[: turn.count]

    def _pick(self, tenant: str, prompt: bytes) -> "_Slot":
        own = [slot for slot in self._free if tenant and slot.tenant == tenant]
        best = max(own, key=lambda slot: _common(slot.prompt, prompt), default=None)
        if best is None or _common(best.prompt, prompt) <= _MIN_COMMON * len(prompt):
            best = self._free[0]
        self._free.remove(best)
        return best


@dataclass(slots=True, eq=False)
class _Slot:
    number: int
    tenant: str = ""
    prompt: bytes = b""


def _common(one: bytes, other: bytes) -> int:
    """Length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


MANY_SLOTS: Final = 256
"""For engines with continuous batching: vLLM's default number of concurrent sequences."""
FEW_SLOTS: Final = 4
"""For engines that divide their memory among slots."""


class PromptCache(StrEnum):
    """How an engine caches prompts, and how tenants are isolated in it."""

    NONE = "none"
    """It keeps nothing between requests."""
    SLOTS = "slots"
    """Each slot keeps its last prompt (llama.cpp): the agent selects the slot, and disables reuse across tenants."""
    SALTED = "salted"
    """A common cache whose keys include a salt (vLLM, SGLang): each tenant has its own salt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How an engine is shared."""

    slots: int
    """Number of sequences that it processes at once. Further ones would be queued inside it in order of arrival."""
    one_by_one: bool = False
    """It gets one sequence per call, since it would process several one after the other, or count only the first."""
    cache: PromptCache = PromptCache.NONE

    def fields(self, tenant: str, turn: Turn) -> dict[str, int | str]:
        """Fields that control the engine's prompt cache."""
        if self.cache is PromptCache.SLOTS:
            return {"id_slot": turn.slots[0], "cache_prompt": turn.is_own}
        # An older server sends no tenant, so there is nothing to keep a cache for.
        return {"cache_salt": tenant or token_hex(32)} if self.cache is PromptCache.SALTED else {}
