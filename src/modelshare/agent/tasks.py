"""Two things asyncio leaves to its users: the bare first error of several tasks; threads that are waited for."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_all(jobs: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run all jobs; when one fails, the others are cancelled and ended before its error is raised, not in a group.

    Not asyncio.TaskGroup: until Python 3.13 it leaves its caller marked as cancelled once a job has failed.
    """
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await _ended(tasks)
    failures = [error for task in ended if not task.cancelled() and (error := task.exception()) is not None]
    if failures:
        raise failures[0]


async def in_thread(threads: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread; a cancelled caller still waits for its end, since it uses his files.

    None is asyncio's own pool of threads.
    """
    future = asyncio.get_running_loop().run_in_executor(threads, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    finally:
        await _ended([future])


async def _ended(work: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until all of it has ended, however often the caller is cancelled meanwhile; that is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [each for each in work if not each.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for each in work:
        if not each.cancelled():
            each.exception()  # looked at: only the first error is told
    if cancelled is not None:
        raise cancelled
