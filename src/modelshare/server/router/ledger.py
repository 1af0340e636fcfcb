"""Borrows parts of limits from the database, for all that need some at the moment in one transaction.

The sum over all processes is exact: see `ledger_rules`. What ended with its process comes back when its lease ends.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import outages
from modelshare.server.audit.service import SYSTEM, Audit
from modelshare.server.background import Loop, within
from modelshare.server.db import Database, notify
from modelshare.server.router import queries
from modelshare.server.router.allowances import Allowance, Counted, Slots
from modelshare.server.router.ledger_rules import Answer, Loan, Record, settle, threshold
from modelshare.server.router.stated_limits import Budget
from modelshare.server.router.tables import LedgerRow

log = structlog.get_logger()
WANTED_TOPIC: Final = "limits"
"""Notification that a process needs what others have borrowed of a limit; the subject is `<process> <limit>`."""
FREED_TOPIC: Final = "freed"
"""Notification that slots were given back that another process wants; the subject is the limit."""
_SWEEP_SECONDS: Final = 0.15
_REST_SECONDS: Final = 0.05
"""Between two sweeps, also if one is asked for."""
_WANTED_SECONDS: Final = 1.0
"""Who waits for slots asks for them more often."""
_PATIENCE_SECONDS: Final = 2.0
"""A database that has not answered by then counts as unavailable."""
_PAUSE_SECONDS: Final = 0.5
"""Between attempts during an outage."""
_BATCH: Final = 200
_QUIET_SECONDS: Final = 15
"""After so long without a change of a budget, it may have been away in between: usage says what was used. All that
processes count has been reported by then, so that nothing counts twice."""
_DAY: Final = 86_400
_KEPT_BUDGET: Final = 40 * _DAY
"""How long after its last use a budget's row is kept; the limits of a minute are kept for a day."""
_ACTIONS: Final = ((80, "budget.warn"), (100, "budget.exhaust"))


class Ledger:
    """The part of one process."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: the database's, in Unix seconds. `ticks`: a monotonic one."""
        self.clock = clock
        self.is_shared = not database.is_sqlite
        """Whether there may be other processes. If not, only budgets are stored."""
        self.ticks = ticks
        self._database = database
        self._process = uuid.uuid4().hex[:12]
        self._held: dict[str, Counted] = {}
        """What was borrowed or is owed."""
        self._asked: dict[str, Counted] = {}
        self._wanted: set[str] = set()
        """Of which others are to give back what they do not use."""
        self._generous: set[str] = set()
        self._round: asyncio.Future[None] | None = None
        self._working: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._sweeping = Loop(
            "settle limits", self._sweep, every=_SWEEP_SECONDS, rest=_REST_SECONDS, is_idle=lambda: not self._held
        )
        database.subscribe(WANTED_TOPIC, self._give_back)

    async def start(self) -> None:
        await self._sweeping.start()

    async def stop(self) -> None:
        """Gives everything back. Call it when no more requests arrive."""
        await self._sweeping.stop()
        self._generous.update(self._held)
        self.ask_soon(*self._held.values())
        if self._working is not None:
            await self._working

    def ask_soon(self, *counted: Counted) -> None:
        """Reports and borrows in the background."""
        now = self.ticks()
        if now < self._away_until:
            for each in counted:
                self._alone(each, now)
            return
        self._asked.update((each.subject, each) for each in counted)
        if self._asked and self._working is None:
            self._working = asyncio.ensure_future(self._work())

    def note(self, counted: Counted) -> None:
        """Something was borrowed, or is owed: it has to be settled."""
        self._held[counted.subject] = counted
        self._sweeping.resume()

    def freed(self, slots: Slots) -> None:
        """A request has ended: if others wait for its slot, it is given back now."""
        if self.ticks() < slots.wanted_until:
            self._sweeping.wake()

    async def ask(self, counted: Sequence[Counted], *, is_wanted: bool) -> None:
        """Borrows now. `is_wanted`: what other processes do not use is to be given back.

        Afterwards each has what could be lent, or is alone since the database is away.
        """
        if is_wanted:
            self._wanted.update(each.subject for each in counted)
        self.ask_soon(*counted)
        if self._working is not None and any(each.subject in self._asked for each in counted):
            self._round = self._round or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._round)

    async def _work(self) -> None:
        """Settles what was asked for, and what is asked for meanwhile."""
        try:
            while self._asked:
                asked, self._asked = list(self._asked.values()), {}
                waiting, self._round = self._round, None
                try:
                    for offset in range(0, len(asked), _BATCH):
                        await self._settle(asked[offset : offset + _BATCH])
                finally:
                    if waiting is not None:
                        waiting.set_result(None)
        finally:
            self._working = None

    async def _settle(self, counted: list[Counted], *, is_first: bool = True) -> None:
        if (now := self.ticks()) < self._away_until:
            for each in counted:
                self._alone(each, now)
            return
        started = now
        counted.sort(key=lambda each: each.subject)  # one order for all processes, which lock rows in it
        try:
            answers = await within(_PATIENCE_SECONDS, self._write(counted))
        except Exception as error:  # noqa: BLE001 - whatever it is, requests go on
            now = self.ticks()
            if is_first and now - started > 2 * _PATIENCE_SECONDS:
                # This process was stopped; the database may not be away.
                await self._settle(counted, is_first=False)
                return
            outages.report("cannot share limits with other processes", error)
            self._away_until = now + _PAUSE_SECONDS
            for each in counted:
                self._alone(each, now)
            return
        now = self.ticks()
        for each, answer in zip(counted, answers, strict=True):
            each.settled(answer, now)
            if each.is_settled:
                self._held.pop(each.subject, None)
            else:
                self.note(each)

    def _alone(self, counted: Counted, now: float) -> None:
        counted.go_alone(now)
        self.note(counted)
        self._generous.discard(counted.subject)
        self._wanted.discard(counted.subject)

    async def _write(self, counted: list[Counted]) -> list[Answer]:
        subjects = {each.subject for each in counted}
        generous, wanted = self._generous & subjects, self._wanted & subjects
        self._generous -= subjects
        self._wanted -= subjects
        async with self._database.write() as session:
            rows = await self._rows(session, counted)
            now, ticks, answers = self.clock(), self.ticks(), []
            for each, row in zip(counted, rows, strict=True):
                ask = each.ask(ticks, is_generous=each.subject in generous)
                loans = {name: Loan(*loan) for name, loan in row.loans.items()}
                record, answer = settle(Record(row.used, row.updated_at, loans), ask, self._process, now)
                budget = each.budget if isinstance(each, Allowance) else None
                if budget is not None:
                    _warn(session, row, budget, record.used, ask.limit.capacity)
                row.used, row.updated_at = record.used, record.updated_at
                row.loans = {name: list(loan) for name, loan in record.loans.items()}
                row.expires_at = int(now) + (_KEPT_BUDGET if budget else _DAY)
                if each.subject in wanted and answer.lent < ask.kept + ask.need and answer.others_turn < answer.turn:
                    notify(session, WANTED_TOPIC, f"{self._process} {each.subject}")
                if isinstance(each, Slots) and ticks < each.wanted_until and answer.free >= 1:
                    notify(session, FREED_TOPIC, each.subject)
                answers.append(answer)
        return answers

    async def _rows(self, session: AsyncSession, counted: Sequence[Counted]) -> list[LedgerRow]:
        """The rows, locked; new ones for limits that were not used yet."""
        subjects = [each.subject for each in counted]
        rows = await queries.lock_ledger(session, subjects)
        if missing := [each for each in counted if each.subject not in rows]:
            used = [await self._used_before(session, each) for each in missing]
            now = self.clock()
            await queries.add_to_ledger(
                session, [(each.subject, before) for each, before in zip(missing, used, strict=True)], now
            )
            rows = await queries.lock_ledger(session, subjects)
        for each in counted:
            await self._catch_up(session, each, rows[each.subject])
        return [rows[subject] for subject in subjects]

    async def _catch_up(self, session: AsyncSession, counted: Counted, row: LedgerRow) -> None:
        """Counts what was used while there was no budget."""
        if not isinstance(counted, Allowance) or counted.budget is None or counted.total != counted.acknowledged:
            return
        if row.updated_at + _QUIET_SECONDS < self.clock():
            row.used = max(row.used, await self._used_before(session, counted))

    async def _used_before(self, session: AsyncSession, counted: Counted) -> float:
        """What was used of a budget before the ledger knew of it, as usage says."""
        if not isinstance(counted, Allowance) or counted.budget is None:
            return 0
        tokens, micros = await queries.used_in_month(session, counted.budget)
        return micros if counted.budget.key_id is None else tokens

    async def _sweep(self) -> None:
        """Reports what was used, gives back what is idle, and renews loans. In an outage: tries the database again."""
        now = self.ticks()
        if now >= self._away_until:
            self.ask_soon(*(each for each in self._held.values() if each.is_due(now)))

    def _give_back(self, subject: str) -> None:
        """Another process needs what is not used here."""
        process, _, wanted = subject.partition(" ")
        if process != self._process and (counted := self._held.get(wanted)) is not None and not counted.is_alone:
            if isinstance(counted, Slots) and counted.has_queue:
                counted.wanted_until = self.ticks() + _WANTED_SECONDS
            self._generous.add(wanted)
            self.ask_soon(counted)


async def forget_unused(session: AsyncSession, *, now: int) -> None:
    """Deletes what has not been used for long, such as limits of deleted endpoints."""
    await queries.forget_ledger(session, now)


def _warn(session: AsyncSession, row: LedgerRow, budget: Budget, used: float, capacity: float) -> None:
    """Tells of each threshold once. After a budget was raised it may be reached again."""
    reached = threshold(used, capacity)
    audit = Audit(session, budget.project_id, SYSTEM, int(row.updated_at))
    target = f"key:{budget.key_id}" if budget.key_id else f"project:{budget.project_id}"
    for percent, action in _ACTIONS:
        if row.warned < percent <= reached:
            audit.done(action, target, month=budget.month.name, used=round(used), budget=round(capacity))
    row.warned = reached
