"""Only the newest attempt to send a part may write it, since parts are written in place.

A client that retries after a stall may race its own first request, which a proxy still holds. Both would write to the
same bytes, so the older attempt must stop, and its last write must have finished, before the newer one starts.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from modelshare.server.storage_errors import PartReplacedError

Group = TypeVar("Group")
Name = TypeVar("Name")


class Attempt:
    """Runs steps in a thread, one after the other, until a newer attempt replaces it."""

    def __init__(self, before: "Attempt | None") -> None:
        self.replaced = False
        self._step: asyncio.Future[None] | None = None
        self._before = before.running if before is not None else None

    @property
    def running(self) -> asyncio.Future[None] | None:
        """The step that may still be writing to the file: this attempt's, or an older one's."""
        step = self._step or self._before
        return step if step is not None and not step.done() else None

    async def start(self, step: Callable[[], None]) -> None:
        """Starts `step` once the previous step has finished, and raises that step's error. Raises PartReplacedError."""
        await self.settle()
        if self.replaced:
            raise PartReplacedError
        self._step = asyncio.get_running_loop().run_in_executor(None, step)

    @staticmethod
    async def start_together(attempts: "Sequence[Attempt]", step: Callable[[], None]) -> None:
        """Starts one step on behalf of all attempts. Raises PartReplacedError."""
        for attempt in attempts:
            await attempt.settle()
        if any(attempt.replaced for attempt in attempts):
            raise PartReplacedError
        running = asyncio.get_running_loop().run_in_executor(None, step)
        for attempt in attempts:
            attempt._step = running  # noqa: SLF001 - same class

    async def settle(self) -> None:
        """Waits for the last step, including an older attempt's. Raises only errors of this attempt's step."""
        if (running := self.running) is not None:
            await asyncio.wait({running})  # unlike `await running`, this does not cancel the step when cancelled
        if self._step is not None:
            self._step.result()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Calls `callback` now, or once the last step has finished. That step's error is dropped: no one waits for
        it."""
        if (running := self.running) is None:
            callback()
        else:
            running.add_done_callback(asyncio.Future.exception)
            running.add_done_callback(lambda _: callback())


class Attempts(Generic[Group, Name]):
    """The newest attempt for each name of a group."""

    def __init__(self) -> None:
        self._newest: dict[Group, dict[Name, Attempt]] = {}

    @contextlib.contextmanager
    def newest(self, group: Group, name: Name) -> Iterator[Attempt]:
        """Starts a new attempt, which replaces the previous one and is known until its last step has finished."""
        attempts = self._newest.setdefault(group, {})
        older = attempts.get(name)
        attempt = attempts[name] = Attempt(older)
        if older is not None:
            older.replaced = True
        try:
            yield attempt
        finally:
            attempt.when_idle(lambda: self._forget(group, name, attempt))

    async def end(self, group: Group) -> None:
        """Stops all attempts of the group, and waits until none is writing to its file any more."""
        attempts = list(self._newest.get(group, {}).values())
        for attempt in attempts:
            attempt.replaced = True
        running = {step for attempt in attempts if (step := attempt.running) is not None}
        if running:
            await asyncio.wait(running)

    def _forget(self, group: Group, name: Name, attempt: Attempt) -> None:
        attempts = self._newest.get(group, {})
        if attempts.get(name) is attempt:
            del attempts[name]
            if not attempts:
                del self._newest[group]
