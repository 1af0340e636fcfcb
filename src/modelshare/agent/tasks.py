"""Two things asyncio leaves to its users: the bare first error of several tasks; threads that are waited for."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def together(jobs: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run all jobs; when one fails, the others are cancelled and ended before its error is raised, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def in_thread(threads: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread; a cancelled caller still waits for its end, since it uses his files."""
    future = asyncio.get_running_loop().run_in_executor(threads, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        raise
