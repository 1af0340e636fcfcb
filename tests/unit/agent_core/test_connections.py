"""How many requests of a pull run at once."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.transfer.connections import Connections

pytestmark = pytest.mark.anyio


async def test_requests_that_fail_together_halve_the_limit_once() -> None:
    connections = Connections(8)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(_failing(connections))
    assert (connections.limit, connections.failed_rounds) == (4, 1)


async def _failing(connections: Connections) -> None:
    async with connections.request() as number:
        await asyncio.sleep(0)  # until all have started
        connections.failed(number)


async def test_the_limit_grows_back_slowly_and_never_beyond_the_maximum() -> None:
    connections = Connections(2)
    async with connections.request() as number:
        connections.failed(number)
    assert connections.limit == 1
    for _ in range(7):
        connections.succeeded()
    assert connections.limit == 1
    for _ in range(100):
        connections.succeeded()
    assert connections.limit == 2


@given(st.lists(st.booleans(), max_size=200))
def test_no_more_run_than_the_limit_allows_and_all_get_their_turn(outcomes: list[bool]) -> None:
    connections, running, most = Connections(8), 0, 0

    async def one(succeeds: bool) -> None:
        nonlocal running, most
        async with connections.request() as number:
            running += 1
            most = max(most, running)
            assert connections.is_single == (running == 1)
            await asyncio.sleep(0)
            connections.succeeded() if succeeds else connections.failed(number)
            assert 1 <= connections.limit <= 8
            running -= 1

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for succeeds in outcomes:
                tasks.create_task(one(succeeds))

    asyncio.run(run())
    assert most <= 8
    assert running == 0
