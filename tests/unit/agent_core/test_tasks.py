"""Several jobs as one, and threads that are waited for."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelshare.transfer.tasks import in_thread, run_all

pytestmark = pytest.mark.anyio


async def test_the_first_error_is_raised_once_the_others_have_ended() -> None:
    ended = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("first")

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("last")

    with pytest.raises(OSError, match="first"):
        await run_all([fail(), last()])
    assert ended == ["last"]


async def test_a_failed_job_leaves_its_caller_no_trace_of_a_cancellation() -> None:
    async def fail() -> None:
        raise OSError("first")

    async def nested(depth: int) -> None:
        await run_all([nested(depth - 1) if depth else fail(), asyncio.Event().wait()])

    with pytest.raises(OSError, match="first"):
        await nested(3)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # would raise what is left of a cancellation


async def test_a_caller_cancelled_twice_still_waits_for_the_end_and_is_cancelled() -> None:
    ending, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await may_end.wait()
            ended.set()

    caller = asyncio.create_task(run_all([slow_to_end()]))
    await asyncio.sleep(0)
    caller.cancel()
    await ending.wait()
    may_end.set()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert ended.is_set()


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_a_thread_is_waited_for_however_often_its_caller_is_cancelled(cancels: int) -> None:
    running, go = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        go.wait(60)

    with ThreadPoolExecutor(1) as threads:
        caller = asyncio.create_task(in_thread(threads, work))
        await asyncio.to_thread(running.wait, 60)
        for _ in range(cancels):
            caller.cancel()
            await asyncio.sleep(0)
        assert not caller.done()
        go.set()
        await asyncio.wait([caller])
    assert caller.cancelled()
