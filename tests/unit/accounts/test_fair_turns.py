"""Of those who wait, whoever asked least is next; nobody who goes away takes a turn along."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.accounts.fair_turns import FairTurns

pytestmark = pytest.mark.anyio


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20), st.integers(1, 3))
def test_the_order(askers: list[tuple[int, bool]], limit: int) -> None:
    """Each asker has asked for so much before, and may go away while it waits."""

    async def main() -> tuple[list[int], int]:
        turns, done, at_work = FairTurns(limit), list[int](), 0
        gate = asyncio.Event()

        async def hold() -> None:
            async with turns.turn(0):
                await gate.wait()

        async def ask(asked: int) -> None:
            nonlocal at_work
            async with turns.turn(asked):
                at_work += 1
                assert at_work <= limit
                await asyncio.sleep(0)
                at_work -= 1
                done.append(asked)

        holders = [asyncio.create_task(hold()) for _ in range(limit)]
        await asyncio.sleep(0)
        tasks = [(asyncio.create_task(ask(asked)), leaves) for asked, leaves in askers]
        await asyncio.sleep(0)
        for task, leaves in tasks:
            if leaves:
                task.cancel()
        gate.set()
        await asyncio.gather(*holders, *(task for task, _ in tasks), return_exceptions=True)
        return done, turns._free

    done, free = asyncio.run(main())
    assert done == sorted(asked for asked, leaves in askers if not leaves)
    assert free == limit


async def test_one_that_leaves_as_it_is_called_passes_its_turn_on() -> None:
    turns = FairTurns(1)
    async with turns.turn(0):
        leaving = asyncio.create_task(turns._wait(0))
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(60), turns.turn(9):
        pass
