"""What this process may use of a limit without asking the database, which lends it in portions (`ledger_rules`).

Without I/O; the clock is passed in. A process that is alone (SQLite, or an outage of the database) has all of a limit
and refills it itself.
"""

import asyncio
import math
from typing import Final

from modelshare.server.router.ledger_rules import CAUTION, LEASE_SECONDS, Answer, Ask, Limit
from modelshare.server.router.stated_limits import Budget

_PORTION: Final = 0.005
"""Of the capacity."""
_IDLE_SECONDS: Final = 2.0
"""What was not used for so long is given back."""
_REPORT_SECONDS: Final = 0.5
"""What was used is reported after this time at the latest."""
_LEASE_SECONDS: Final = LEASE_SECONDS - 1
"""The process counts less than the database, whose clock it does not read."""
_RENEW_SECONDS: Final = 4.0
"""Before the end of its lease."""


class Counted:
    """A limit, as this process knows it."""

    __slots__ = (
        *("__weakref__", "asked_at", "free", "is_alone", "lease_ends", "limit"),
        *("others_turn", "refused_until", "since", "subject", "turn", "waiting"),
    )

    def __init__(self, subject: str, limit: Limit, now: float, *, is_alone: bool) -> None:
        self.subject = subject
        self.limit = limit
        self.is_alone = is_alone
        self.free = 0.0
        """What nobody had borrowed when the database was asked last."""
        self.turn = 0
        self.others_turn = -math.inf
        """As in the database's answer."""
        self.asked_at = self.since = now
        self.lease_ends = math.inf if is_alone else -math.inf
        self.refused_until = -math.inf
        """Until then the database need not be asked again."""
        self.waiting = 0
        """Requests that wait for the database's answer."""

    def is_ready(self, now: float) -> bool:
        """Whether one more request may be let in without asking the database."""
        raise NotImplementedError

    def used_now(self, now: float) -> float:
        """What is used, as far as this process knows."""
        raise NotImplementedError

    def is_due(self, now: float) -> bool:
        """Whether the database has to be asked, or told of something."""
        raise NotImplementedError

    @property
    def is_settled(self) -> bool:
        """Whether the database and this process owe each other nothing."""
        raise NotImplementedError

    def ask(self, now: float, *, is_generous: bool) -> Ask:
        """`is_generous`: it keeps only what it needs now, since others need the rest.

        A process that is alone goes on as it is until the database has answered, which it may not do.
        """
        raise NotImplementedError

    def settled(self, answer: Answer, now: float) -> None:
        """The database has answered."""
        self.is_alone, self.free, self.since = False, answer.free, now
        self.turn, self.others_turn = answer.turn, answer.others_turn
        self.lease_ends = self.asked_at + _LEASE_SECONDS
        if answer.free >= 1:
            self.refused_until = -math.inf

    def refuse(self, now: float, seconds: float) -> None:
        """There is nothing for so long."""
        if not self.is_alone and now >= self.refused_until:
            self.refused_until = now + seconds

    def go_alone(self, now: float) -> None:
        """The database cannot be asked: goes on with what is left, as far as it knows."""
        self.is_alone, self.since, self.lease_ends, self.refused_until = True, now, math.inf, -math.inf

    def change(self, limit: Limit) -> None:
        self.limit, self.refused_until = limit, -math.inf
        if not self.is_alone:
            self.lease_ends = -math.inf  # what was lent of the old limit may be too much now


class Allowance(Counted):
    """A limit of what is used up: requests, tokens, money."""

    __slots__ = (
        *("_asked_total", "_elsewhere", "_least", "_used_at"),
        *("acknowledged", "budget", "left", "total", "used"),
    )

    def __init__(
        self, subject: str, limit: Limit, now: float, *, is_alone: bool, least: int = 1, budget: Budget | None = None
    ) -> None:
        """`least`: what must be left to let a request in, to a process that is alone."""
        super().__init__(subject, limit, now, is_alone=is_alone)
        self.budget = budget
        self.left = limit.capacity if is_alone else 0.0
        """Of what was lent. Negative: owed."""
        self.total = 0.0
        """Used since the start."""
        self.acknowledged = 0.0
        self.used = 0.0
        """By all processes, when the database was asked last."""
        self._elsewhere = 0.0
        """What other processes had borrowed then."""
        self._least = least
        self._asked_total = 0.0
        self._used_at = now

    def is_ready(self, now: float) -> bool:
        if self.is_alone:
            self._refill(now)
            return self.left >= self._least
        return self.left >= 1 and now < self.lease_ends

    def take(self, amount: float, now: float) -> None:
        self.left -= amount
        self.total += amount
        self._used_at = now

    def level(self, now: float) -> float:
        """What all processes together may still use, as far as this one knows."""
        return min(self.limit.capacity, self._within_reach(now) + (0.0 if self.is_alone else self._elsewhere))

    def used_now(self, now: float) -> float:
        return self.limit.capacity - self.level(now)

    def wait(self, now: float) -> float:
        """Seconds until one more request may be let in; infinite for a budget that is used up."""
        missing = (self._least if self.is_alone else 1) - self._within_reach(now)
        return missing * 60 / self.limit.per_minute if self.limit.per_minute else math.inf

    def wants_more(self) -> bool:
        """Whether it is time to borrow, before requests have to wait for it, or to pay off what is owed."""
        if self.is_alone or self.left > (portion := self._portion) / 2:
            return False
        return self.left < -portion or (self.left >= 0 and portion * CAUTION <= self.free)

    def is_due(self, now: float) -> bool:
        if self.is_alone:
            return True
        if self.total != self.acknowledged and (self.left < 0 or self.budget or now >= self.since + _REPORT_SECONDS):
            return True
        return self.left > 0 and (now >= self._used_at + _IDLE_SECONDS or now >= self.lease_ends - _RENEW_SECONDS)

    @property
    def is_settled(self) -> bool:
        return not self.is_alone and self.left <= 0 and self.total == self.acknowledged

    def ask(self, now: float, *, is_generous: bool) -> Ask:
        is_wanted = self.waiting or now < self._used_at + _IDLE_SECONDS
        target = self._portion if is_wanted and not is_generous else 0
        if not self.is_alone:
            if now >= self.lease_ends:
                self.left = min(self.left, 0.0)
            self.left = min(self.left, target + self.waiting)  # what is given back is not used meanwhile
        elif self.budget is None:
            self.acknowledged = self.total  # what was used alone has been refilled alone
        self.asked_at, self._asked_total = now, self.total
        lent = 0.0 if self.is_alone else self.left
        need = max(lent, self.waiting, 0.0)
        spare = max(0.0, target - (need - self.waiting))
        return Ask(self.limit, self.total, self.acknowledged, need=need, spare=spare)

    def settled(self, answer: Answer, now: float) -> None:
        super().settled(answer, now)
        self.acknowledged, self.used, self._elsewhere = self._asked_total, answer.used, answer.elsewhere
        self.left = answer.lent - (self.total - self._asked_total)
        if answer.lent >= 1:
            self.refused_until = -math.inf

    def go_alone(self, now: float) -> None:
        if not self.is_alone:
            is_known = self.turn > 0 or self.budget is not None
            # Before the first answer, a limit of a minute counts as unused; a budget may be used up.
            self.left = self._within_reach(now) if is_known else self.limit.capacity - self.total
            super().go_alone(now)

    def change(self, limit: Limit) -> None:
        if self.is_alone:
            self.left += limit.capacity - self.limit.capacity
        super().change(limit)

    def _within_reach(self, now: float) -> float:
        """What this process may still use, without what others have borrowed."""
        if self.is_alone:
            self._refill(now)
            return self.left
        passed = max(0.0, now - self.since)
        return min(self.limit.capacity, self.left + self.free + passed * self.limit.per_minute / 60)

    @property
    def _portion(self) -> int:
        return max(1, math.floor(self.limit.capacity * _PORTION))

    def _refill(self, now: float) -> None:
        passed = now - self.since
        if passed > 0:
            capacity, per_minute = self.limit
            self.left = min(capacity, self.left + passed * per_minute / 60)
            self.since = now


class Slots(Counted):
    """Places for sequences in progress, which are given back."""

    __slots__ = ("_calm_since", "busy", "freed", "has_queue", "held", "peak", "wanted_until")

    def __init__(self, subject: str, limit: Limit, now: float, *, is_alone: bool) -> None:
        super().__init__(subject, limit, now, is_alone=is_alone)
        self.busy = 0
        self.freed = asyncio.Event()
        """Set by every request that ends; whoever waits for it clears it first."""
        self.held = int(limit.capacity) if is_alone else 0
        """What was lent, busy or not."""
        self.peak = 0
        """The most that were busy lately."""
        self.has_queue = False
        """Whether requests wait for them instead of being refused."""
        self.wanted_until = -math.inf
        """Until then requests wait in other processes: what is freed is given back at once."""
        self._calm_since = math.inf
        """Since when more are held than needed."""

    def is_ready(self, now: float) -> bool:
        return self.busy < self.held and now < self.lease_ends

    def used_now(self, now: float) -> float:  # noqa: ARG002 - as for an allowance
        return self.busy

    def take(self) -> None:
        self.busy += 1
        if self.busy > self.peak:  # noqa: PLR1730 - once per request: `max` takes longer
            self.peak = self.busy

    def leave(self, turns: int) -> None:
        self.busy -= turns
        self.refused_until = -math.inf
        self.freed.set()

    def is_due(self, now: float) -> bool:
        if self.is_alone or self.busy > self.held or (self.held and now >= self.lease_ends - _RENEW_SECONDS):
            return True
        if self.held > self.busy and now < self.wanted_until:
            return True
        if self.held > self._wanted:
            self._calm_since = min(self._calm_since, now)
            return now >= self._calm_since + _IDLE_SECONDS
        self._calm_since, self.peak = math.inf, self.busy
        return False

    @property
    def is_settled(self) -> bool:
        return not self.is_alone and not self.held and not self.busy

    def ask(self, now: float, *, is_generous: bool) -> Ask:
        is_generous = is_generous or now < self.wanted_until
        if self.is_alone:
            kept = self.busy
        else:
            if is_generous or now >= self.lease_ends:
                self.held = self.busy
            elif now >= self._calm_since + _IDLE_SECONDS:
                self.held = min(self.held, self._wanted)  # what is given back is not used meanwhile
                self._calm_since = math.inf
            kept = max(self.held, self.busy)
        self.peak, self.asked_at = self.busy, now
        need = max(0, self.busy + self.waiting - kept)
        spare = 0 if is_generous else max(0, self._wanted - kept - need)
        return Ask(self.limit, kept=kept, need=need, spare=spare)

    def settled(self, answer: Answer, now: float) -> None:
        super().settled(answer, now)
        self.held = int(answer.lent)

    def go_alone(self, now: float) -> None:
        super().go_alone(now)
        self.held = int(self.limit.capacity)

    def change(self, limit: Limit) -> None:
        super().change(limit)
        if self.is_alone:
            self.held = int(limit.capacity)

    @property
    def _wanted(self) -> int:
        """What is needed now, and half as many more."""
        needed = max(self.peak, self.busy + self.waiting)
        return needed + max(1, needed // 2) if needed else 0
