"""Work in the background: each piece is tried, timed and reported by itself, so that none holds up another."""

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
"""A chore that took longer is reported."""
_FIRST_RETRY_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 10.0
"""The longest that a loop may take to stop, for example to give a job back."""
_LAST_CALL_SECONDS: Final = 1.0
"""What every part has for its end, even where those before it took all the time; then it is cancelled again."""


@dataclass(slots=True)
class Chore:
    """A piece of work that may fail. Its name reads well after "cannot", as the log has it: "cannot write usage"."""

    name: str
    run: Callable[[], Awaitable[object]]
    slow: float = _SLOW_SECONDS
    """Seconds after which an attempt counts as slow."""
    _error: str = field(default="", init=False)
    """Of the last attempt, if that failed."""

    async def attempt(self) -> bool:
        """Whether it worked. An error is reported, but not again while the attempts that follow end with the same."""
        started = time.monotonic()
        try:
            await self.run()
        except Exception as error:  # noqa: BLE001 - the next attempt may find the database back, and others go on
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
        if said != self._error or outages.outage_of(error) is not None:  # outages are reported now and then anyway
            outages.report(f"cannot {self.name}", error, chore=self.name)


class Loop:
    """Does one chore over and over, in a task of its own; only `stop` ends it."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        every: float | None = None,
        rest: float = 0.0,
        retry: float | None = None,
        slow: float = _SLOW_SECONDS,
    ) -> None:
        """`every`: seconds from the end of one round to the next; None waits to be woken.

        `rest`: seconds between rounds however often it is woken. `retry`: the longest that a round that failed waits
        for its next attempt, `every` unless given.
        """
        self._chore = Chore(name, work, slow)
        self._every = every
        self._rest = rest
        longest = next(each for each in (retry, every, _STOP_SECONDS) if each is not None)
        self._backoff = Backoff(min(_FIRST_RETRY_SECONDS, longest), longest)
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None

    def wake(self, *_: object) -> None:
        """Has the next round begin at once, or right after the present one. Also a listener of notifications."""
        self._woken.set()

    async def start(self) -> None:
        self._is_stopping = False
        self._task = asyncio.create_task(self._run())

    async def stop(self, patience: float = _STOP_SECONDS) -> None:
        """Cancels the round that is under way; one that has not ended after `patience` seconds is left behind."""
        # The flag too: a library may swallow the cancellation, as asyncio.wait_for does until Python 3.12.
        self._is_stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=patience)
            if not self._task.done():
                log.warning("a chore took too long to end, and was left", chore=self._chore.name)

    async def _run(self) -> None:
        while not self._is_stopping:
            await wait(self._woken, self._every)
            self._woken.clear()  # before the work, so that what comes meanwhile is not missed
            while not await self._chore.attempt() and not self._is_stopping:
                seconds = self._backoff.next()
                await asyncio.sleep(seconds)
            self._backoff.reset()
            await asyncio.sleep(self._rest)


class Chores:
    """Does each of them every so often, in a loop of its own."""

    def __init__(self, chores: Iterable[Chore], *, every: float) -> None:
        """`every`: seconds from the end of one round to the next."""
        self._chores = list(chores)
        self._loops = [Loop(chore.name, chore.run, every=every) for chore in self._chores]

    async def start(self) -> None:
        for loop in self._loops:
            loop.wake()
            await loop.start()

    async def stop(self) -> None:
        """Does all of them a last time."""
        await stop_all(self._loops)
        await self.do_all()

    async def do_all(self) -> None:
        """One round, at once."""
        await asyncio.gather(*(chore.attempt() for chore in self._chores))


class Ending:
    """Ends the parts of a process one after the other: each is tried, and all together have so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None

    async def end(self, name: str, stop: Callable[[], Awaitable[object]]) -> None:
        """Ends one part. What fails, or takes too long, is told of and left behind; the time counts from the first."""
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
    """Stops them together."""
    await asyncio.gather(*(loop.stop() for loop in loops))


async def retry(name: str, work: Callable[[], Awaitable[Result]], *, longest: float) -> Result:
    """What `work` answers as soon as it does not fail; `longest`: seconds between two attempts at most."""
    results: list[Result] = []

    async def keep() -> None:
        results.append(await work())

    chore, backoff = Chore(name, keep), Backoff(min(_FIRST_RETRY_SECONDS, longest), longest)
    while not await chore.attempt():
        seconds = backoff.next()
        await asyncio.sleep(seconds)
    return results[0]


async def within(seconds: float, work: Awaitable[Result]) -> Result:
    """What `work` answers. Raises TimeoutError after so many seconds, even if `work` takes longer to be cancelled.

    asyncio.timeout cancels once, and waits. SQLAlchemy's ping answers that with a rollback: on a connection that has
    gone silent it would wait for as long as the database is away.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits any more
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
    """Again and again until it has ended."""
    if not task.done():
        task.cancel()
        asyncio.get_running_loop().call_later(_LAST_CALL_SECONDS, _cancel, task)


async def wait(event: asyncio.Event, seconds: float | None) -> None:
    """Until the event is set or the time is over."""
    # Not asyncio.wait_for: until Python 3.12 it may swallow a cancellation, and the task would never stop.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
