"""How the requests of several projects go into one engine, so that none waits for another's and none learns of it."""

from dataclasses import dataclass
from enum import StrEnum
from secrets import token_hex
from typing import Final

import msgspec

from modelshare.agent.engines.turns import Turn

MANY_SLOTS: Final = 256
"""For engines that batch by themselves: what vLLM works on at once if it is not told otherwise."""
FEW_SLOTS: Final = 4
"""For engines that divide their memory among them."""


class PromptCache(StrEnum):
    """What an engine keeps of prompts, and how one tenant's is kept from another's."""

    NONE = "none"
    """Nothing from one request to the next."""
    SLOTS = "slots"
    """Each slot holds its last prompt (llama.cpp): the agent chooses the slot, and has another tenant's forgotten."""
    SALTED = "salted"
    """A common cache, whose keys take a salt in (vLLM, SGLang): each tenant has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What an engine is like in this respect."""

    slots: int
    """Sequences it works on at once. More than these would wait inside it, first come, first served."""
    one_by_one: bool = False
    """It gets each sequence as a request of its own, since it would work on many in a row, or count only the first."""
    cache: PromptCache = PromptCache.NONE

    def fields(self, tenant: str, turn: Turn) -> dict[str, msgspec.Raw]:
        """What is said to the engine in a request, for its cache's sake."""
        if self.cache is PromptCache.SLOTS:
            return {"id_slot": _raw(turn.slots[0]), "cache_prompt": _raw(turn.is_own)}
        # Without a tenant's name, of an older server, there is none to keep anything for.
        return {"cache_salt": _raw(tenant or token_hex(32))} if self.cache is PromptCache.SALTED else {}


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
