"""What may be lent of a limit to a process, and what has been used of it. Pure; amounts are whole units.

A record is shared by all processes. `used` is what was used and has not been refilled yet; a loan is what a process may
use without asking, and is not used yet. Never is more lent than the capacity leaves: so all processes together use at
most the capacity and what is refilled over time, beyond which only an overdraft goes, and that is paid off first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

LEASE_SECONDS: Final = 9.0
"""A loan that its process does not renew in this time has ended: the process is gone."""
CAUTION: Final = 4
"""Beyond what is needed now, a process gets at most this fraction of what is free, so that some is left for others."""

_ROUNDING: Final = 1e-3
"""Times are floating-point numbers: what is refilled at the very moment counts."""


class Limit(NamedTuple):
    """A limit: so much at once, and so much more with time."""

    capacity: float
    per_minute: float = 0
    """0: nothing is refilled. Places for requests are given back instead, and budgets end with the month."""


class Loan(NamedTuple):
    amount: float
    total: float
    """Everything that the process has used since its start, as far as it is counted in the record."""
    expires_at: float
    turn: int
    """Counts the settlements of the record."""


@dataclass(frozen=True, slots=True)
class Record:
    """The state of a limit. Times are in seconds of the database's clock."""

    used: float = 0.0
    updated_at: float = 0.0
    loans: Mapping[str, Loan] = field(default_factory=dict)
    """By process."""
    warned: int = 0
    """The threshold of a budget, in percent, that was told of last."""


class Ask(NamedTuple):
    """What a process has used and wants to be lent."""

    limit: Limit
    total: float = 0
    """Everything that it has used since its start."""
    acknowledged: float = 0
    """As much of it as it knows to be counted."""
    kept: float = 0
    """What it cannot give back, even if the limit has been exceeded."""
    need: float = 0
    """For requests that wait."""
    spare: float = 0
    """So that the next requests need not wait."""


class Answer(NamedTuple):
    lent: float
    """The loan that the process has now, instead of an earlier one."""
    free: float
    """What is left for all processes."""
    used: float
    turn: int
    elsewhere: float
    """What other processes have borrowed, and have not used as far as they have reported."""
    others_turn: float
    """When all other processes with loans have settled again: the turn of the first of them. Infinite if there are
    none."""


def settle(record: Record, ask: Ask, process: str, now: float) -> tuple[Record, Answer]:
    """Counts what the process has used, and lends to it again."""
    now = max(now, record.updated_at)
    capacity, per_minute = ask.limit
    own = record.loans.get(process)
    others = {name: loan for name, loan in record.loans.items() if name != process and loan.expires_at > now}
    refilled = max(0.0, record.used - (now - record.updated_at) * per_minute / 60)
    used = refilled + max(0.0, ask.total - max(ask.acknowledged, own.total if own else 0.0))
    elsewhere = sum(loan.amount for loan in others.values())
    free = capacity - used - elsewhere
    lent = max(ask.kept, min(ask.kept + ask.need, math.floor(free + _ROUNDING)))
    lent += max(0, min(ask.spare, math.floor((free - lent) / CAUTION)))
    turn = max((loan.turn for loan in record.loans.values()), default=0) + 1
    loans = others | {process: Loan(lent, ask.total, now + LEASE_SECONDS, turn)}
    others_turn = min((loan.turn for loan in others.values() if loan.amount), default=math.inf)
    return Record(used, now, loans, record.warned), Answer(lent, free - lent, used, turn, elsewhere, others_turn)


def threshold(used: float, capacity: float) -> int:
    """Which threshold of a budget is reached, in percent; 0 for none."""
    return next((percent for percent in (100, 80) if used * 100 >= capacity * percent), 0)
