"""Shares an engine between projects: fair scheduling of its slots, and isolation of its prompt cache.

Requests without a free slot wait here and not inside the engine, which serves them in order of arrival, so that one
tenant could delay all others.

A free slot is given to the tenant with the fewest running sequences; among equals, to the one whose last turn was the
longest ago. A tenant's own requests keep their order.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from secrets import token_hex
from typing import Final

import msgspec

MAX_WAITING: Final = 1024
"""Maximum number of waiting turns per tenant. There is no total limit, since one tenant could exhaust it."""
_REMEMBERED: Final = 64 << 10
"""Bytes of each slot's last prompt that are compared to find one that has computed the same beginning."""
_ALIKE: Final = 0.1
"""The minimum fraction of a prompt that a slot must have computed in order to be preferred."""


class TooManyWaitingError(Exception):
    """The tenant already has the maximum number of waiting turns."""


@dataclass(slots=True)
class Turn:
    """Slots of an engine, held for one turn."""

    slots: tuple[int, ...]
    is_own: bool
    """Whether the slots' contents were computed for the same tenant."""
    worked: bool = False
    """Whether the engine has processed the prompt. If it has not, the slots' contents are unchanged."""


class TenantQueue:
    """The slots of one engine, and the turns that wait for them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = [_Slot(number) for number in range(slots)]
        """The one that has been free for the longest time comes first."""
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._last: dict[str, int] = {}
        """Number of the last turn of each tenant that runs or waits."""
        self._count = itertools.count(1)

    @property
    def waiting(self) -> int:
        """Number of waiting turns."""
        return sum(len(queue) for queue in self._waiting.values())

    def others_wait(self, tenant: str) -> bool:
        """Whether other tenants are waiting."""
        return any(other != tenant for other in self._waiting)

    @asynccontextmanager
    async def turn(self, tenant: str, count: int = 1, prompt: bytes = b"") -> AsyncIterator[Turn]:
        """Waits for `count` slots at once (at most all), and holds them within the block.

        Prefers a slot that has computed the beginning of `prompt` for the same tenant. Raises TooManyWaitingError.
        """
        slots = await self._take(tenant, min(count, self.slots), prompt[:_REMEMBERED])
        is_own = tenant != "" and all(slot.tenant == tenant for slot in slots)
        turn = Turn(tuple(slot.number for slot in slots), is_own)
        try:
            yield turn
        finally:
            for slot in slots:
                if turn.worked:
                    slot.tenant, slot.prompt = tenant, prompt[:_REMEMBERED]
                elif not is_own:  # the contents are unknown
                    slot.tenant, slot.prompt = "", b""
            self._give_back(tenant, slots)

    async def _take(self, tenant: str, count: int, prompt: bytes) -> "list[_Slot]":
        queue = self._waiting.get(tenant) or deque()
        if len(queue) >= MAX_WAITING:
            raise TooManyWaitingError
        waiter = _Waiter(count, prompt, asyncio.get_running_loop().create_future())
        queue.append(waiter)
        self._waiting[tenant] = queue
        self._serve()
        try:
            return await waiter.slots
        except asyncio.CancelledError:
            if waiter.slots.cancelled():
                self._serve()  # others may have been waiting behind it
            else:  # the slots were assigned just before the cancellation
                self._give_back(tenant, waiter.slots.result())
            raise

    def _give_back(self, tenant: str, slots: "list[_Slot]") -> None:
        self._free += slots
        self._running[tenant] -= len(slots)
        if not self._running[tenant]:
            del self._running[tenant]
            if tenant not in self._waiting:
                del self._last[tenant]
        self._serve()

    def _serve(self) -> None:
        self._forget_those_who_left()
        while self._waiting:
            tenant = min(self._waiting, key=lambda one: (self._running[one], self._last.get(one, 0)))
            queue = self._waiting[tenant]
            if queue[0].count > len(self._free):
                return  # no overtaking, or else a large request would never get enough slots
            waiter = queue.popleft()
            if not queue:
                del self._waiting[tenant]
            self._running[tenant] += waiter.count
            self._last[tenant] = next(self._count)
            waiter.slots.set_result([self._pick(tenant, waiter.prompt) for _ in range(waiter.count)])

    def _forget_those_who_left(self) -> None:
        for tenant, queue in list(self._waiting.items()):
            staying = deque(waiter for waiter in queue if not waiter.slots.cancelled())
            if not staying:
                del self._waiting[tenant]
                if not self._running[tenant]:
                    self._last.pop(tenant, None)
            elif len(staying) < len(queue):
                self._waiting[tenant] = staying

    def _pick(self, tenant: str, prompt: bytes) -> "_Slot":
        own = [slot for slot in self._free if tenant and slot.tenant == tenant]
        best = max(own, key=lambda slot: _common(slot.prompt, prompt), default=None)
        if best is None or _common(best.prompt, prompt) <= _ALIKE * len(prompt):
            best = self._free[0]
        self._free.remove(best)
        return best


@dataclass(slots=True, eq=False)
class _Slot:
    number: int
    tenant: str = ""
    prompt: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    count: int
    prompt: bytes
    slots: asyncio.Future[list[_Slot]]


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

    def fields(self, tenant: str, turn: Turn) -> dict[str, msgspec.Raw]:
        """Fields that control the engine's prompt cache."""
        if self.cache is PromptCache.SLOTS:
            return {"id_slot": _raw(turn.slots[0]), "cache_prompt": _raw(turn.is_own)}
        # An older server sends no tenant, so there is nothing to keep a cache for.
        return {"cache_salt": _raw(tenant or token_hex(32))} if self.cache is PromptCache.SALTED else {}


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
