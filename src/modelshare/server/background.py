"""Background work: chores are run, timed and reported separately, so that none blocks another."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from modelshare.server import outages
from modelshare.wire.backoff import Backoff

log = structlog.get_logger()
Result = TypeVar("Result")

_SLOW_SECONDS: Final = 10.0
"""A slower chore is reported."""
_FIRST_RETRY_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 10.0
"""How long a loop may take to stop, for example to return a job."""
_STEP_SECONDS: Final = 0.25
"""Rounds of different loops begin together, at multiples of this, since waking up costs more than most rounds."""
_IDLE_SECONDS: Final = 10.0
"""Between rounds of a loop that has nothing to do."""
_LAST_CALL_SECONDS: Final = 1.0
"""The minimum time for each service to stop, even if earlier ones took all the time; then it is cancelled."""


@dataclass(slots=True)
class Chore:
    """A task that may fail. Its name completes a sentence in the log: "cannot write usage"."""

    name: str
    run: Callable[[], Awaitable[object]]
    slow: float = _SLOW_SECONDS
    """Seconds after which an attempt counts as slow."""
    _error: str = field(default="", init=False)
    """The error of the last attempt, if that failed."""

    async def attempt(self) -> bool:
        """Runs it; returns whether it succeeded. Reports an error only once while attempts fail with the same one."""
        started = time.monotonic()
        try:
            await self.run()
        except Exception as error:  # noqa: BLE001 - the next attempt may succeed, and other chores must run
            self._failed(error)
            return False
        finally:
            took = time.monotonic() - started
            if took > self.slow:
                log.warning("a background task took long", chore=self.name, seconds=round(took, 1))
        if self._error:
            log.info("a chore works again", chore=self.name)
            self._error = ""
        return True

    def _failed(self, error: Exception) -> None:
        said, self._error = self._error, repr(error)
        if said != self._error or outages.outage_of(error) is not None:  # outages are rate-limited by `report`
            outages.report(f"cannot {self.name}", error, chore=self.name)


class Loop:
    """Repeats a chore in a separate task until `stop`."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        every: float | None = None,
        rest: float = 0.0,
        retry: float | None = None,
        slow: float = _SLOW_SECONDS,
        is_idle: Callable[[], bool] | None = None,
    ) -> None:
        """`every`: seconds from the end of one round to the next, rounded so that loops wake together; None: only when
        woken.

        `rest`: minimum seconds between rounds, even if it is woken. `retry`: maximum seconds until the next attempt
        after a failed round; default: `every`. `is_idle`: whether there is nothing to do until `resume`; it then runs
        rarely.
        """
        self._chore = Chore(name, work, slow)
        self._every = every
        self._rest = rest
        self._is_idle = is_idle
        self._is_resting = False
        self._is_resumed = False
        longest = next(each for each in (retry, every, _STOP_SECONDS) if each is not None)
        self._backoff = Backoff(min(_FIRST_RETRY_SECONDS, longest), longest)
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None

    def wake(self, *_: object) -> None:
        """Starts the next round immediately, or right after the current one. Can be used as a listener of
        notifications."""
        self._is_resumed = False
        self._woken.set()

    def resume(self) -> None:
        """There is something to do again: the next round comes after the usual time. Cheap, so that it can be called
        whenever something comes in."""
        if self._is_resting and not self._woken.is_set():
            self._is_resumed = True
            self._woken.set()

    async def start(self) -> None:
        self._is_stopping = self._is_resting = self._is_resumed = False
        self._task = asyncio.create_task(self._run())

    async def stop(self, patience: float = _STOP_SECONDS) -> None:
        """Cancels the current round; abandons it if it does not end within `patience` seconds."""
        # A flag as well: libraries may swallow the cancellation, as asyncio.wait_for does before Python 3.12.
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=patience)
            if not self._task.done():
                log.warning("a chore took too long to end, and was left", chore=self._chore.name)

    async def _run(self) -> None:
        while not self._is_stopping:
            await self._wait()
            self._woken.clear()  # before the work, so that a wake-up during it is not missed
            while not await self._chore.attempt() and not self._is_stopping:
                seconds = self._backoff.next()
                await asyncio.sleep(seconds)
            self._backoff.reset()
            await asyncio.sleep(self._rest)

    async def _wait(self) -> None:
        """Until the next round."""
        if self._every is None:
            await self._woken.wait()
            return
        if self._is_idle is not None and self._is_idle():
            self._is_resting = True
            await self._wait_for(max(self._every, _IDLE_SECONDS))
            self._is_resting = False
            if not self._is_resumed:
                return
            self._is_resumed = False
            self._woken.clear()
        await self._wait_for(self._every)

    async def _wait_for(self, seconds: float) -> None:
        """Or until it is woken. A timer is much cheaper than a time limit for the wait."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if seconds >= _STEP_SECONDS:
            due = round(due / _STEP_SECONDS) * _STEP_SECONDS
        timer = loop.call_at(due, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()


class Chores:
    """Runs each chore regularly, in a loop of its own."""

    def __init__(self, chores: Iterable[Chore], *, every: float) -> None:
        """`every`: seconds from the end of one round to the next."""
        self._chores = list(chores)
        self._loops = [Loop(chore.name, chore.run, every=every) for chore in self._chores]

    async def start(self) -> None:
        for loop in self._loops:
            loop.wake()
            await loop.start()

    async def stop(self) -> None:
        """Stops the loops, then runs all chores once more."""
        await stop_all(self._loops)
        await self.do_all()

    async def do_all(self) -> None:
        """Runs all chores once, immediately."""
        await asyncio.gather(*(chore.attempt() for chore in self._chores))


class Ending:
    """Stops a process's services one after the other, within a total time limit."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None

    async def end(self, name: str, stop: Callable[[], Awaitable[object]]) -> None:
        """Stops a service; reports it if it fails or takes too long. The time limit starts with the first call."""
        now = time.monotonic()
        self._deadline = self._deadline or now + self._seconds
        ending = asyncio.ensure_future(stop())
        await asyncio.wait([ending], timeout=max(_LAST_CALL_SECONDS, self._deadline - now))
        if not ending.done():
            ending.cancel()
            await asyncio.wait([ending], timeout=_LAST_CALL_SECONDS)
            log.warning("took too long to stop and was abandoned", part=name)
        elif not ending.cancelled() and (error := ending.exception()) is not None:
            log.warning("did not stop cleanly", part=name, error=str(error) or type(error).__name__)


async def stop_all(loops: Iterable[Loop]) -> None:
    """Stops the loops concurrently."""
    await asyncio.gather(*(loop.stop() for loop in loops))


async def retry(name: str, work: Callable[[], Awaitable[Result]], *, longest: float) -> Result:
    """Repeats `work` until it succeeds and returns its result. `longest`: maximum seconds between attempts."""
    results: list[Result] = []

    async def keep() -> None:
        results.append(await work())

    chore, backoff = Chore(name, keep), Backoff(min(_FIRST_RETRY_SECONDS, longest), longest)
    while not await chore.attempt():
        seconds = backoff.next()
        await asyncio.sleep(seconds)
    return results[0]


async def within(seconds: float, work: Awaitable[Result]) -> Result:
    """The result of `work`. Raises TimeoutError after `seconds`, even if cancelling `work` takes longer.

    asyncio.timeout would wait for the cancellation, to which SQLAlchemy's ping responds with a rollback: on a dead
    connection, that hangs for the rest of the outage.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks an error as retrieved
    try:
        await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task], timeout=_LAST_CALL_SECONDS)
        raise
    finally:
        _cancel(task)
    if not task.done():
        raise TimeoutError
    return task.result()


def _cancel(task: asyncio.Future[Any]) -> None:
    """Repeats the cancellation until the task has ended."""
    if not task.done():
        task.cancel()
        asyncio.get_running_loop().call_later(_LAST_CALL_SECONDS, _cancel, task)


async def wait(event: asyncio.Event, seconds: float | None) -> None:
    """Waits until the event is set or the time has passed."""
    # Not asyncio.wait_for: before Python 3.12 it may swallow a cancellation, and the task would never stop.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
