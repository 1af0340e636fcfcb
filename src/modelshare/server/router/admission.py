"""Whether a request may enter: limits of the endpoint's tier and of the key, and budgets of the month.

With PostgreSQL all processes together keep to them (`ledger`). While a process has borrowed enough, it lets requests in
without waiting.

Concurrency is counted in sequences: a request for eight answers counts as eight requests. It is admitted while
there is any capacity, even if it needs more, so that small requests cannot block a large one forever.

Requests per minute may burst by the tier's `burst_percent`. Tokens are charged after the answer, when they are known;
who overdrew waits until the bucket is full enough again.
"""

import asyncio
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from modelshare.server.background import wait
from modelshare.server.errors import RateLimitedError
from modelshare.server.router.allowances import Allowance, Counted, Slots
from modelshare.server.router.ledger import Ledger
from modelshare.server.router.ledger_rules import Limit
from modelshare.server.router.stated_limits import StatedLimit, month_of, of_key, of_project, of_tier, slots_of
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import KeyLimits
from modelshare.wire.limits import LimitKind
from modelshare.wire.tiers import Tier

_MAX: Final = 100_000
"""Gates kept; the least recently used are dropped."""
_MINUTE: Final = 60
_HEADERS: Final = tuple(
    (kind, tuple(b"x-ratelimit-%b-%b" % (what, of) for what in (b"limit", b"remaining", b"reset")))
    for kind, of in ((LimitKind.REQUESTS_PER_MINUTE, b"requests"), (LimitKind.TOKENS_PER_MINUTE, b"tokens"))
)
_PATIENCE_SECONDS: Final = 0.3
"""How long a request waits for what other processes have and may not use."""
_AGAIN_SECONDS: Final = 0.03
_REFUSED_SECONDS: Final = 0.5
"""How long it is known, without asking, that a budget is used up: it may be raised at any time."""
_FULL_SECONDS: Final = 0.05
"""How long it is known, without asking, that all slots are busy."""


class Payer(NamedTuple):
    """Whose limits hold beside the tier's."""

    project_id: str
    key_id: uuid.UUID
    key_limits: KeyLimits
    monthly_budget: int | None
    """The project's, in millionths of the platform's currency."""


class _Rule(NamedTuple):
    """A limit of a gate, and what this process knows of it."""

    stated: StatedLimit
    allowance: Allowance


class _Limits:
    """The limits that this process counts, by subject. Each is shared by all gates that it concerns."""

    def __init__(self, clock: Callable[[], float], ledger: Ledger | None) -> None:
        self.clock = clock
        self.ledger = ledger
        self._is_alone = ledger is None or not ledger.is_shared
        self._counted: WeakValueDictionary[str, Counted] = WeakValueDictionary()

    def slots(self, subject: str, count: int) -> Slots:
        limit = Limit(count)
        found = self._known(subject, limit)
        if not isinstance(found, Slots):
            found = Slots(subject, limit, self.clock(), is_alone=self._is_alone)
            self._counted[subject] = found
        return found

    def rule(self, stated: StatedLimit) -> _Rule:
        subject, limit, budget = stated.subject, stated.limit, stated.budget
        found = self._known(subject, limit)
        if not isinstance(found, Allowance):
            is_alone = self._is_alone if budget is None else self.ledger is None
            least = 0 if stated.token_weight and limit.per_minute else 1
            found = Allowance(subject, limit, self.clock(), is_alone=is_alone, least=least, budget=budget)
            self._counted[subject] = found
        return _Rule(stated, found)

    def used_alone(self, subject: str) -> float | None:
        """What is used of a limit that this process counts by itself; None for others."""
        found = self._counted.get(subject)
        return None if found is None or not found.is_alone else found.used_now(self.clock())

    def freed(self, subject: str) -> None:
        """Another process has given back slots."""
        if isinstance(found := self._counted.get(subject), Slots):
            found.leave(0)

    def _known(self, subject: str, limit: Limit) -> Counted | None:
        found = self._counted.get(subject)
        if found is not None and found.limit != limit:
            found.change(limit)
        return found


class Gate:
    """The limits of the requests of one endpoint; of one key at it, if the key or the project has some of its own."""

    __slots__ = (
        "_allowances",
        "_clock",
        "_ledger",
        "_per_request",
        "_per_token",
        "_rules",
        "_shown",
        "_slots",
        "ends_at",
        "payer",
        "tier",
    )

    def __init__(
        self,
        tier: Tier,
        clock: Callable[[], float],
        limits: _Limits | None = None,
        endpoint_id: uuid.UUID | None = None,
        payer: Payer | None = None,
    ) -> None:
        """`clock` is monotonic, in seconds. Without `limits` it counts alone."""
        limits = limits or _Limits(clock, None)
        self.tier = tier
        self.payer = payer
        self.ends_at = math.inf
        """When the month of a budget ends, in Unix seconds: then another gate is needed."""
        self._clock = clock
        self._ledger = limits.ledger
        self._slots = limits.slots(slots_of(endpoint_id), tier.max_concurrent_requests)
        self._slots.has_queue = tier.queue_seconds > 0
        stated = [*of_tier(endpoint_id, tier)]
        if payer is not None and self._ledger is not None:
            month = month_of(self._ledger.clock())
            stated += of_key(payer.project_id, payer.key_id, payer.key_limits, month)
            if payer.monthly_budget is not None and tier.price_per_million_tokens:
                stated.append(of_project(payer.project_id, payer.monthly_budget, month, tier.price_per_million_tokens))
            if any(each.budget for each in stated):
                self.ends_at = month.ends_at
        self._rules = tuple(map(limits.rule, stated))
        self._allowances = tuple(each.allowance for each in self._rules)
        self._per_request = tuple(each for stated, each in self._rules if not stated.token_weight)
        self._per_token = tuple((each, stated.token_weight) for stated, each in self._rules if stated.token_weight)
        shown = [(names, [each for stated, each in self._rules if stated.kind is kind]) for kind, names in _HEADERS]
        self._shown = tuple((names, allowances) for names, allowances in shown if allowances)

    @property
    def busy(self) -> int:
        """Sequences in progress in this process."""
        return self._slots.busy

    def enter(self) -> bool:
        """Counts one request until `leave`, if nothing has to be asked; else returns False, see `enter_later`.

        Raises RateLimitedError if it is not allowed now.
        """
        now = self._clock()
        if not self._slots.is_ready(now):
            return self._refuse_known(now)
        for allowance in self._allowances:
            if not allowance.is_ready(now):
                return self._refuse_known(now)
        for allowance in self._per_request:
            allowance.take(1, now)
            self._report(allowance)
        self._slots.take()
        return True

    async def enter_later(self) -> None:
        """As `enter`, with what can be borrowed from the database. Raises RateLimitedError if nothing can be."""
        assert self._ledger is not None  # noqa: S101 - without it `enter` always knows
        asked: dict[Counted, int] = {}
        now = asyncio.get_running_loop().time
        await self._borrow(is_wanted=True)
        give_up = now() + _PATIENCE_SECONDS
        while not self.enter():
            # Other processes have been told to give back what lies idle; those that have settled since then did.
            lacking = self._lacking(self._clock())
            used_up = [each for each in lacking if each.others_turn > asked.setdefault(each, each.turn)]
            if used_up or (lacking and now() >= give_up):
                raise self._refusal((used_up or lacking)[0], self._clock())
            self._slots.freed.clear()
            await wait(self._slots.freed, _AGAIN_SECONDS)
            if self.enter():
                return
            await self._borrow(is_wanted=False)

    async def _borrow(self, *, is_wanted: bool) -> None:
        assert self._ledger is not None  # noqa: S101 - as above
        lacking = self._lacking(self._clock())
        for each in lacking:
            each.waiting += 1
        try:
            await self._ledger.ask(lacking, is_wanted=is_wanted)
        finally:
            for each in lacking:
                each.waiting -= 1

    def count_as(self, turns: int) -> None:
        """The request that entered counts as this many sequences."""
        self._slots.busy += turns - 1
        if self._ledger is not None and self._slots.busy > self._slots.held and not self._slots.is_alone:
            self._ledger.ask_soon(self._slots)

    def leave(self, turns: int = 1) -> None:
        """`turns`: as the request counted."""
        self._slots.leave(turns)
        if self._ledger is not None:
            self._ledger.freed(self._slots)

    def charge(self, tokens: int) -> None:
        if not tokens or not self._per_token:
            return
        now = self._clock()
        for allowance, weight in self._per_token:
            allowance.take(tokens * weight, now)
            self._report(allowance)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` headers as in OpenAI's API, for what is limited: of the endpoint or the key, whichever has
        less left."""
        found: list[tuple[bytes, bytes]] = []
        now = self._clock()
        for (limit, remaining, reset), allowances in self._shown:
            level, (capacity, per_minute) = min((each.level(now), each.limit) for each in allowances)
            found += [
                (limit, b"%d" % per_minute),
                (remaining, b"%d" % max(0, min(math.floor(level), round(per_minute)))),
                (reset, _duration((capacity - level) * _MINUTE / per_minute)),
            ]
        return found

    def _lacking(self, now: float) -> list[Counted]:
        counted: tuple[Counted, ...] = (self._slots, *self._allowances)
        return [each for each in counted if not each.is_ready(now)]

    def _refuse_known(self, now: float) -> bool:
        """Raises RateLimitedError if it is known, without asking, that something is used up; else returns False."""
        for each in self._lacking(now):
            if each.is_alone or now < each.refused_until:
                raise self._refusal(each, now)
        return False

    def _refusal(self, counted: Counted, now: float) -> RateLimitedError:
        tier = self.tier
        if isinstance(counted, Slots):
            counted.refuse(now, _FULL_SECONDS)
            return RateLimitedError(
                f"{max(counted.busy, tier.max_concurrent_requests)} answers are in progress, and the tier "
                f"`{tier.slug}` allows {tier.max_concurrent_requests} at the same time. Wait for one to finish.",
                code=ErrorCode.CAPACITY_EXCEEDED,
                retry_after=1,
            )
        assert isinstance(counted, Allowance)  # noqa: S101 - there is nothing else
        message = next(stated.refusal for stated, allowance in self._rules if allowance is counted)
        if (budget := counted.budget) is not None:
            assert self._ledger is not None  # noqa: S101 - budgets need it
            counted.refuse(now, _REFUSED_SECONDS)
            later = max(1, math.ceil(budget.month.ends_at - self._ledger.clock()))
            return RateLimitedError(message, code=ErrorCode.BUDGET_EXCEEDED, retry_after=later)
        seconds = max(counted.wait(now), 0.001)
        counted.refuse(now, seconds)
        later = max(1, math.ceil(seconds))
        return RateLimitedError(
            f"{message} Try again in {later} s.", code=ErrorCode.RATE_LIMIT_EXCEEDED, retry_after=later
        )

    def _report(self, allowance: Allowance) -> None:
        """Borrows in time, and has what was used reported."""
        if self._ledger is not None and not (allowance.is_alone and allowance.budget is None):
            self._ledger.note(allowance)
            if allowance.wants_more():
                self._ledger.ask_soon(allowance)


class Admission:
    """The gates of all endpoints in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, ledger: Ledger | None = None) -> None:
        """Without a ledger, each process counts by itself, and there are no budgets and no limits of keys."""
        self._clock = clock
        self._ledger = ledger
        self._limits = _Limits(clock, ledger)
        self._gates: OrderedDict[int | tuple[int, int], Gate] = OrderedDict()
        """By the IDs of the endpoint and the key as numbers, which are faster to look up."""

    def gate(self, endpoint_id: uuid.UUID, tier: Tier, payer: Payer | None = None) -> Gate:
        """The gate of the endpoint's requests; a new one if the endpoint moved to another tier or a limit changed."""
        name = endpoint_id.int if payer is None else (endpoint_id.int, payer.key_id.int)
        gate = self._gates.get(name)
        if gate is None or not self._fits(gate, tier, payer):
            gate = self._gates[name] = Gate(tier, self._clock, self._limits, endpoint_id, payer)
            if len(self._gates) > _MAX:
                self._gates.popitem(last=False)
        else:
            self._gates.move_to_end(name)
        return gate

    def used_alone(self, subject: str) -> float | None:
        """What is used of a limit that this process counts by itself; None for others."""
        return self._limits.used_alone(subject)

    def freed(self, subject: str) -> None:
        """Another process has given back slots: whoever waits for them may try again."""
        self._limits.freed(subject)

    async def start(self) -> None:
        if self._ledger is not None:
            await self._ledger.start()

    async def stop(self) -> None:
        """Gives back what was borrowed. Call it when no more requests arrive."""
        if self._ledger is not None:
            await self._ledger.stop()

    def _fits(self, gate: Gate, tier: Tier, payer: Payer | None) -> bool:
        if (gate.tier is not tier and gate.tier != tier) or gate.payer != payer:
            return False
        return payer is None or self._ledger is None or self._ledger.clock() < gate.ends_at


def _duration(seconds: float) -> bytes:
    """`1m3s`, `12s` or `250ms`, as in OpenAI's API."""
    if seconds >= _MINUTE:
        return b"%dm%ds" % divmod(math.ceil(seconds), _MINUTE)
    return b"%ds" % math.ceil(seconds) if seconds >= 1 else b"%dms" % math.ceil(seconds * 1000)
