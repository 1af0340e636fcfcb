"""Sends a conversation to the machine that has answered it before, whose engine still has its beginning in the prompt
cache, unless that machine has more than its part of the work.

This is rendezvous hashing with bounded loads (https://arxiv.org/abs/1608.01350): every process prefers the same machine
for a conversation, and a machine that comes or goes moves no conversations but its own.
"""

import math
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

import msgspec

SPREAD: Final = 1.25
"""A machine may have this many times the mean load."""
MAX_SESSION: Final = 256
"""Bytes of the header `X-Session-Id` that count."""
_BEGINNING: Final = 32 << 10
"""Bytes of a conversation that tell it from others."""
_PROMPT: Final = 1024
"""As `_BEGINNING`, for a text to complete: it has no messages, and a longer part would change with each addition."""
_KEPT: Final = 20_000
"""Conversations that a process remembers, the ones used last."""
_MASK: Final = (1 << 64) - 1


class _Body(msgspec.Struct):
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


_decode: Final = msgspec.json.Decoder(_Body).decode


def conversation_key(endpoint: bytes, route: str, body: bytes, session: bytes = b"") -> int | None:
    """A number for the conversation, the same for all its turns; None where no machine is better than another.

    `endpoint` keeps tenants apart. `session` is the client's own name for the conversation, if it gives one. `body` is
    valid JSON.
    """
    if route == "embeddings":
        return None
    beginning = session[:MAX_SESSION] or _beginning(route, body)
    return zlib.crc32(beginning, zlib.crc32(endpoint)) if beginning else None


def _beginning(route: str, body: bytes) -> bytes:
    """The messages before the model's first one: later turns begin with the same bytes. Empty if there are none."""
    fields = _decode(body)
    if route != "chat/completions":
        return bytes(memoryview(fields.prompt)[:_PROMPT])
    messages = bytes(memoryview(fields.messages)[:_BEGINNING])
    # Within a text, quotation marks are escaped: the word with bare ones is a role.
    answer = messages.find(b'"assistant"')
    return messages[: messages.rfind(b"}", 0, len(messages) if answer < 0 else answer) + 1]


def busy_limit(total: float, count: float) -> float:
    """The most that one of `count` machines may have in progress if all together have `total`.

    `count`: the capacity of all machines together, in multiples of this one's. While there is little to do, chance puts
    two or three requests on one machine: sending them elsewhere would cost more than it gains.
    """
    mean = total / count
    return max(SPREAD * mean + 1, mean + 2)


def placed_limit(total: float, count: float) -> float:
    """As `busy_limit`, for the conversations of a machine. They last, so they are spread more evenly."""
    mean = total / count
    return max(SPREAD * mean, math.ceil(mean))


def preference(key: int, deployment_id: str) -> int:
    """How much this machine is preferred for the conversation (the finalizer of MurmurHash3)."""
    mixed = (key << 32 | key) ^ _seed(deployment_id)
    mixed = (mixed ^ mixed >> 33) * 0xFF51AFD7ED558CCD & _MASK
    mixed = (mixed ^ mixed >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return mixed ^ mixed >> 33


@lru_cache(4096)
def _seed(deployment_id: str) -> int:
    name = deployment_id.encode()
    return zlib.crc32(name) << 32 | zlib.crc32(name[::-1])


def _preferred(key: int, ids: Sequence[str]) -> str:
    return max(ids, key=lambda each: preference(key, each))


def _within(limits: Sequence[float], ids: Sequence[str], loads: Sequence[int]) -> list[str]:
    return [each for each, load, limit in zip(ids, loads, limits, strict=True) if load <= limit]


def _in_multiples(capacities: Sequence[int]) -> list[float]:
    total = sum(capacities)
    return [total / each for each in capacities]


class Conversations:
    """Which machine each conversation belongs to."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._homes: dict[int, str] = {}
        """The one used last is at the end."""
        self._placed: Counter[str] = Counter()
        """Number of conversations by deployment."""

    def __len__(self) -> int:
        return len(self._homes)

    def home(self, key: int) -> str | None:
        return self._homes.get(key)

    def choose(
        self,
        key: int,
        ids: Sequence[str],
        busy: Sequence[int],
        members: Collection[str],
        capacities: Sequence[int] | None = None,
    ) -> str:
        """The conversation's machine, or another if that has too much to do or cannot answer now.

        `ids`: the deployments that can answer, `busy`: what they have in progress, and `capacities`: what each can do
        at once, if they differ. The conversation moves only if its machine is no longer one of `members`, those that
        serve the endpoint.
        """
        counts = _in_multiples(capacities or [1] * len(ids))
        home = self._homes.pop(key, None)
        if home is None or (home not in ids and home not in members):
            home = self._place(key, home, ids, counts)
        else:
            self._homes[key] = home
        total = sum(busy) + 1
        limits = [busy_limit(total, count) - 1 for count in counts]
        if home in ids and busy[at := ids.index(home)] <= limits[at]:
            return home
        return _preferred(key, _within(limits, ids, busy))

    def _place(self, key: int, before: str | None, ids: Sequence[str], counts: Sequence[float]) -> str:
        if before is not None:
            self._leave(before)
        elif len(self._homes) >= self._kept:
            self._leave(self._homes.pop(next(iter(self._homes))))
        placed = [self._placed[each] for each in ids]
        total = sum(placed) + 1
        limits = [placed_limit(total, count) - 1 for count in counts]
        home = _preferred(key, _within(limits, ids, placed))
        self._homes[key] = home
        self._placed[home] += 1
        return home

    def _leave(self, deployment_id: str) -> None:
        self._placed[deployment_id] -= 1
        if not self._placed[deployment_id]:
            del self._placed[deployment_id]
