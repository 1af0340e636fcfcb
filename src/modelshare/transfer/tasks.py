"""Asyncio helpers: run several jobs until the first error; run a function in a thread and always wait for it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_all(jobs: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Runs all jobs. If one fails, cancels the others, waits for them, and raises its error (not in a group).

    Not asyncio.TaskGroup: before Python 3.13 it leaves its caller marked as cancelled once a job has failed.
    """
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await _wait_for_all(tasks)
    failures = [error for task in ended if not task.cancelled() and (error := task.exception()) is not None]
    if failures:
        raise failures[0]


async def in_thread(threads: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a blocking function in a thread. A cancelled caller still waits for it, since it uses the caller's files.

    None means asyncio's default thread pool.
    """
    future = asyncio.get_running_loop().run_in_executor(threads, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    finally:
        await _wait_for_all([future])


async def _wait_for_all(work: Sequence[asyncio.Future[Any]]) -> None:
    """Waits until all of it has ended, even if the caller is cancelled; raises the cancellation afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [each for each in work if not each.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for each in work:
        if not each.cancelled():
            each.exception()  # mark as retrieved: only the first error is raised
    if cancelled is not None:
        raise cancelled
