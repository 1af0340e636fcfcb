"""Whose turn it is in an engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelshare.agent.engines.sharing import MAX_WAITING, TenantQueue, TooManyWaitingError, Turn

pytestmark = pytest.mark.anyio
Step = Callable[[], Awaitable[None]]


@asynccontextmanager
async def holding(turns: TenantQueue, tenant: str, count: int = 1, prompt: bytes = b"") -> AsyncIterator[Turn]:
    """Waits for the turn, and holds it within the block."""
    began = asyncio.get_running_loop().create_future()
    turn = turns.turn(tenant, count, prompt, lambda turn: None if began.done() else began.set_result(turn))
    try:
        yield await began
    finally:
        turn.close()


class Engine:
    """What runs in it, and in what order it began."""

    def __init__(self, slots: int) -> None:
        self.turns = TenantQueue(slots)
        self.began: list[str] = []
        self.slots: list[tuple[int, ...]] = []
        self.own: list[bool] = []
        self._ends: dict[str, list[asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def ask(self, tenant: str, count: int = 1, prompt: bytes = b"") -> asyncio.Task[None]:
        task = asyncio.create_task(self._run(tenant, count, prompt))
        self._tasks.append(task)
        return task

    async def end(self, tenant: str) -> None:
        """The tenant's oldest running sequence ends."""
        self._ends[tenant].pop(0).set()
        await settled()

    async def _run(self, tenant: str, count: int, prompt: bytes) -> None:
        async with holding(self.turns, tenant, count, prompt) as turn:
            self._note(tenant, turn)
            end = asyncio.Event()
            self._ends.setdefault(tenant, []).append(end)
            await end.wait()

    def _note(self, tenant: str, turn: Turn) -> None:
        self.began.append(tenant)
        self.slots.append(turn.slots)
        self.own.append(turn.is_own)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_next_slot_goes_to_the_tenant_that_has_none() -> None:
    engine = Engine(2)
    for _ in range(64):
        engine.ask("long")
    await settled()
    engine.ask("short")
    await settled()
    assert engine.began == ["long", "long"]
    await engine.end("long")
    assert engine.began == ["long", "long", "short"]
    await engine.close()


async def test_tenants_that_want_as_much_get_as_much() -> None:
    engine = Engine(1)
    for tenant in "aaaabbbccc":
        engine.ask(tenant)
    await settled()
    for _ in range(9):
        await engine.end(engine.began[-1])
    assert "".join(engine.began) == "abcabcabca"
    await engine.close()


async def test_who_leaves_is_not_waited_for() -> None:
    engine = Engine(1)
    engine.ask("a")
    await settled()
    leaving, large = engine.ask("b"), engine.ask("c")
    await settled()
    leaving.cancel()
    await settled()
    assert engine.turns.waiting == 1
    await engine.end("a")
    assert engine.began == ["a", "c"]
    large.cancel()
    await settled()
    engine.ask("d")
    await settled()
    assert engine.began[-1] == "d", "the slot of one that was cancelled is free again"
    await engine.close()


async def test_a_slot_given_to_one_that_leaves_at_that_moment_is_not_lost() -> None:
    engine = Engine(1)
    engine.ask("a")
    await settled()
    leaving = engine.ask("b")
    await settled()
    engine._ends["a"].pop().set()
    await asyncio.sleep(0)  # the slot is given, and its new holder has not run yet
    leaving.cancel()
    engine.ask("c")
    await settled()
    assert engine.began == ["a", "c"]
    await engine.close()


async def test_what_takes_several_slots_is_not_overtaken_for_ever() -> None:
    engine = Engine(3)
    engine.ask("a")
    engine.ask("a")
    await settled()
    engine.ask("b", count=9)
    await settled()
    engine.ask("c")
    await settled()
    assert engine.began == ["a", "a"]
    await engine.end("a")
    await engine.end("a")
    assert engine.began == ["a", "a", "b"]
    assert len(engine.slots[-1]) == 3
    await engine.end("b")
    assert engine.began[-1] == "c"
    await engine.close()


async def test_one_tenant_waits_for_so_many_turns_and_others_still_may() -> None:
    engine = Engine(1)
    for _ in range(MAX_WAITING + 1):
        engine.ask("a")
    await settled()
    with pytest.raises(TooManyWaitingError):
        await engine.ask("a")
    engine.ask("b")
    await settled()
    assert engine.turns.waiting == MAX_WAITING + 1
    await engine.end("a")
    assert engine.began == ["a", "b"]
    await engine.close()


async def test_a_slot_is_used_again_by_whom_it_computed_for() -> None:
    turns = TenantQueue(3)

    async def slot(tenant: str, prompt: bytes, *, works: bool = True) -> tuple[int, bool]:
        async with holding(turns, tenant, prompt=prompt) as turn:
            turn.worked = works
            return turn.slots[0], turn.is_own

    first = b"you are a helpful assistant" * 9
    assert await slot("a", first) == (0, False)
    assert await slot("b", first) == (1, False), "another tenant's prompt is nobody's business"
    assert await slot("a", first + b", and short") == (0, True)
    assert await slot("a", b"quite another talk") == (2, False), "both talks keep theirs"
    assert await slot("a", b"quite another talk goes on") == (2, True)
    assert await slot("a", first) == (0, True)
    assert await slot("c", first) == (1, False), "the one that was not used for the longest time"
    assert await slot("b", first) == (2, False)
    assert await slot("b", first, works=False) == (2, True)
    assert await slot("b", first) == (2, True), "it holds what it held"
    assert await slot("d", first, works=False) == (0, False)
    assert await slot("d", first) == (1, False)
    assert await slot("a", first) == (2, False), "nobody knows what the first one holds"


async def test_without_a_name_nothing_is_ones_own() -> None:
    turns = TenantQueue(1)
    for _ in range(2):
        async with holding(turns, "", prompt=b"x") as turn:
            assert not turn.is_own
            turn.worked = True


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.booleans()), max_size=40), st.integers(1, 4))
def test_slots_are_neither_lost_nor_given_twice(steps: list[tuple[str, int, bool]], slots: int) -> None:
    async def run() -> None:
        turns, held = TenantQueue(slots), set[int]()

        async def work(tenant: str, count: int) -> None:
            async with holding(turns, tenant, count) as turn:
                assert not held & set(turn.slots)
                held.update(turn.slots)
                try:
                    await asyncio.sleep(0)
                finally:
                    held.difference_update(turn.slots)

        tasks = []
        for tenant, count, leaves in steps:
            tasks.append(asyncio.create_task(work(tenant, count)))
            if leaves:
                await asyncio.sleep(0)
                tasks[len(tasks) // 2].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, asyncio.CancelledError) for one in done)
        assert (turns.waiting, held) == (0, set())
        async with holding(turns, "z", slots) as turn:
            assert sorted(turn.slots) == list(range(slots))

    asyncio.run(run())


@given(st.lists(st.tuples(st.sampled_from(["resize", "ask", "end"]), st.integers(1, 8)), max_size=60))
def test_a_queue_that_is_resized_runs_as_many_as_it_has_slots(steps: list[tuple[str, int]]) -> None:
    turns, open_, target = TenantQueue(4), list[Turn](), 4
    for what, number in steps:
        if what == "resize":
            target = number
            turns.resize(number)
        elif what == "ask":
            open_.append(turns.turn(f"tenant {number}", min(number, 2), b"", lambda _: None))
        elif open_:
            open_.pop(number % len(open_)).close()
        held = sum(len(turn.held) for turn in open_)
        assert turns.running == held
        assert turns.slots == max(target, held)
        waiting = [turn for turn in open_ if not turn.held]
        assert not waiting or max(turn.count for turn in waiting) > target - held, "no turn waits without need"
    for turn in open_:
        turn.close()
    assert (turns.slots, turns.running, turns.waiting) == (target, 0, 0)
