"""Chores and endings: none holds up another."""

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from modelshare.server.background import Chore, Chores, Ending

pytestmark = pytest.mark.anyio


async def test_a_chore_that_fails_or_hangs_starves_no_other() -> None:
    rounds = dict.fromkeys("abc", 0)
    done = asyncio.Event()

    async def fail() -> None:
        rounds["a"] += 1
        raise RuntimeError("no")

    async def hang() -> None:
        rounds["b"] += 1
        await asyncio.Event().wait()

    async def work() -> None:
        rounds["c"] += 1
        if rounds["c"] == 3:
            done.set()

    chores = Chores([Chore("a", fail), Chore("b", hang), Chore("c", work)], every=0)
    with capture_logs() as logs:
        await chores.start()
        async with asyncio.timeout(60):
            await done.wait()
    assert {line["chore"] for line in logs} == {"a"}
    assert rounds["b"] == 1
    assert rounds["a"] > 1
    await Ending(0.1).end("chores", chores.stop)


async def test_every_part_gets_its_turn_to_end() -> None:
    ended = []

    async def fail() -> None:
        ended.append("fail")
        raise RuntimeError("no")

    async def hang() -> None:
        ended.append("hang")
        await asyncio.Event().wait()

    async def deaf() -> None:
        ended.append("deaf")
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    async def well() -> None:
        ended.append("well")

    released = asyncio.Event()
    ending = Ending(0.05)
    started = time.monotonic()
    with capture_logs() as logs:
        for name, stop in {"fail": fail, "hang": hang, "deaf": deaf, "well": well}.items():
            await ending.end(name, stop)
    released.set()
    assert ended == ["fail", "hang", "deaf", "well"]
    assert [line["part"] for line in logs] == ["fail", "hang", "deaf"]
    assert time.monotonic() - started < 10
