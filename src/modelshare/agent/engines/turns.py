"""Whose turn it is in an engine. What finds no slot free waits here, and not inside the engine, where the first to come
would be the first served, however much he brought.

A free slot goes to the tenant that runs the least in this engine; among equals, to the one whose last turn is the
longest ago. A tenant's own requests keep their order.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

MAX_WAITING: Final = 1024
"""Turns that one tenant may wait for. There is no common bound: a tenant could use it up for all others."""
_REMEMBERED: Final = 64 << 10
"""Bytes of a prompt by which a slot is found that has computed its beginning."""
_ALIKE: Final = 0.1
"""The part of a prompt that a slot must have computed, to be taken for that."""


class TooManyWaitingError(Exception):
    """The tenant waits for as many turns as it may."""


@dataclass(slots=True)
class Turn:
    """Slots of an engine, for as long as the turn lasts."""

    slots: tuple[int, ...]
    is_own: bool
    """What the slots still hold was computed for the same tenant."""
    worked: bool = False
    """The engine has computed the prompt. One that it refused, or did not get to, leaves in a slot what was there."""


class TenantQueue:
    """The slots of one engine, and who waits for them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = [_Slot(number) for number in range(slots)]
        """The one that is free for the longest time comes first."""
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._last: dict[str, int] = {}
        """Which turn was the last of each tenant that runs or waits."""
        self._count = itertools.count(1)

    @property
    def waiting(self) -> int:
        """Turns that are waited for."""
        return sum(len(queue) for queue in self._waiting.values())

    def others_wait(self, tenant: str) -> bool:
        """Other tenants do."""
        return any(other != tenant for other in self._waiting)

    @asynccontextmanager
    async def turn(self, tenant: str, count: int = 1, prompt: bytes = b"") -> AsyncIterator[Turn]:
        """Waits for `count` slots at once, or all if there are fewer, and holds them within the block.

        A slot is preferred that has computed the beginning of `prompt` for the same tenant. Raises
        TooManyWaitingError.
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
                elif not is_own:  # nobody knows what it holds
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
                self._serve()  # it may have been the one that the others waited for
            else:  # they came at the moment of leaving
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
                return  # nobody overtakes: a large request would never find enough slots
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
    """Length of the beginning that both share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
