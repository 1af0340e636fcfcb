"""Loops, chores and endings: none holds up another."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from modelshare.server import background
from modelshare.server.background import Chore, Chores, Ending, Loop, retry, wait, within

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


@pytest.fixture
def immediate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that do not wait."""
    monkeypatch.setattr(background, "_FIRST_RETRY_SECONDS", 0.001)


class Rounds:
    """A loop's work, which a test holds up and lets fail."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        async with self._changed:
            self.begun += 1
            self._changed.notify_all()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        async with self._changed:
            self.ended += 1
            self._changed.notify_all()

    async def until(self, *, begun: int = 0, ended: int = 0) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.begun >= begun and self.ended >= ended)


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


async def test_a_loop_waits_until_its_time_has_come(rounds: Rounds) -> None:
    loop = Loop("work", rounds.run, every=0.01)
    await loop.start()
    assert rounds.begun == 0
    await rounds.until(ended=3)
    await loop.stop()
    stopped = rounds.begun
    loop.wake()
    await asyncio.sleep(0)
    assert rounds.begun == stopped


async def test_loops_wake_together(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    running = asyncio.get_running_loop()
    due: list[float] = []
    call_at = running.call_at

    def noted(when: float, act: Callable[..., object], *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        if getattr(act, "__name__", "") == "set":
            due.append(when)
        return call_at(when, act, *arguments, **options)

    monkeypatch.setattr(running, "call_at", noted)
    loops = [Loop(f"every {every} s", rounds.run, every=every) for every in (0.25, 0.5)]
    for each in loops:
        await each.start()
    await rounds.until(ended=3)
    await background.stop_all(loops)
    assert len(due) >= 3
    assert {when % 0.25 for when in due} == {0.0}


async def test_a_loop_that_is_woken_does_not_wait(rounds: Rounds) -> None:
    loop = Loop("work", rounds.run)
    loop.wake("by a notification")
    await loop.start()
    await rounds.until(ended=1)
    loop.wake()
    await rounds.until(ended=2)
    await loop.stop()


async def test_a_loop_with_nothing_to_do_rests_until_there_is_something(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_IDLE_SECONDS", 3600)
    todo: list[str] = []
    loop = Loop("work", rounds.run, every=0.01, is_idle=lambda: not todo)
    await loop.start()
    await asyncio.sleep(0.05)
    assert rounds.begun == 0
    todo.append("this")
    loop.resume()
    await rounds.until(ended=3)
    todo.clear()
    before = rounds.begun
    await asyncio.sleep(0.05)
    assert rounds.begun <= before + 1
    await loop.stop()


async def test_work_that_comes_and_goes_makes_no_more_rounds_than_usual(rounds: Rounds) -> None:
    todo: list[str] = []
    loop = Loop("work", rounds.run, every=3600, is_idle=lambda: not todo)
    await loop.start()
    for _ in range(100):
        todo.append("this")
        loop.resume()
        await asyncio.sleep(0)
        todo.clear()
        await asyncio.sleep(0)
    assert rounds.begun == 0
    loop.wake()
    await rounds.until(ended=1)
    await loop.stop()


async def test_more_work_does_not_wake_a_loop_that_does_not_rest(rounds: Rounds) -> None:
    loop = Loop("work", rounds.run, every=3600, is_idle=lambda: False)
    await loop.start()
    await asyncio.sleep(0)
    loop.resume()
    await asyncio.sleep(0.01)
    assert rounds.begun == 0, "its time comes soon enough"
    await loop.stop()


async def test_what_a_loop_is_told_during_a_round_is_not_missed(rounds: Rounds) -> None:
    loop = Loop("work", rounds.run)
    await loop.start()
    rounds.gate.clear()
    loop.wake()
    await rounds.until(begun=1)
    for _ in range(100):
        loop.wake()
    rounds.gate.set()
    await rounds.until(ended=2)
    await loop.stop()
    assert rounds.ended == 2


@pytest.mark.usefixtures("immediate")
async def test_a_loop_that_fails_tries_again_and_reports_it_once(rounds: Rounds) -> None:
    rounds.errors = [RuntimeError("no"), RuntimeError("no"), ValueError("other"), ValueError("other")]
    loop = Loop("work", rounds.run, retry=0.01)
    with capture_logs() as logs:
        await loop.start()
        loop.wake()
        await rounds.until(ended=1)
        loop.wake()
        await rounds.until(ended=2)
    await loop.stop()
    assert [(line["event"], line.get("error")) for line in logs] == [
        ("cannot work", "no"),
        ("cannot work", "other"),
        ("a chore works again", None),
    ]


@pytest.mark.usefixtures("immediate")
async def test_retries_become_rarer_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("modelshare.server.background.asyncio.sleep", _noting(slept))
    errors = [RuntimeError("no")] * 8

    async def answer() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert await retry("ask", answer, longest=0.016) == 7
    assert all(whole / 2 <= seconds <= whole for seconds, whole in zip(slept, WHOLE, strict=True))


WHOLE = [0.001, 0.002, 0.004, 0.008, 0.016, 0.016, 0.016, 0.016]


def _noting(slept: list[float]) -> Callable[[float], Awaitable[None]]:
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    return note


async def test_work_that_swallows_the_cancellation_is_the_last(rounds: Rounds) -> None:
    async def swallow() -> None:
        try:
            await rounds.run()
        except asyncio.CancelledError:
            raise TimeoutError from None  # as asyncio.wait_for may

    rounds.gate.clear()
    loop = Loop("work", swallow, every=0)
    await loop.start()
    await rounds.until(begun=1)
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await loop.stop()
    await asyncio.sleep(0)
    assert rounds.begun == 1
    assert not [line for line in logs if "left" in line["event"]]


async def test_work_that_does_not_end_is_left_behind(rounds: Rounds) -> None:
    async def deaf() -> None:
        while not rounds.gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await rounds.run()

    rounds.gate.clear()
    loop = Loop("work", deaf, every=0)
    await loop.start()
    await rounds.until(begun=1)
    with capture_logs() as logs:
        await loop.stop(0.01)
    assert [line["event"] for line in logs] == ["a chore took too long to end, and was left"]
    rounds.gate.set()
    async with asyncio.timeout(10):
        await loop.stop()


async def test_a_loop_that_was_stopped_can_be_started_again(rounds: Rounds) -> None:
    loop = Loop("work", rounds.run)
    await loop.stop()
    for number in (1, 2):
        loop.wake()
        await loop.start()
        await rounds.until(ended=number)
        await loop.stop()


async def test_waiting_ends_with_the_event_or_the_time() -> None:
    event = asyncio.Event()
    async with asyncio.timeout(10):
        await wait(event, 0.001)
        await wait(event, 0)
    event.set()
    async with asyncio.timeout(10):
        await wait(event, 60)
        await wait(event, None)


async def test_a_cancellation_ends_the_waiting_even_as_the_event_comes() -> None:
    for steps in range(4):
        event = asyncio.Event()
        waiting = asyncio.create_task(wait(event, 60))
        for _ in range(steps):
            await asyncio.sleep(0)
        event.set()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()


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


async def test_what_answers_a_cancellation_with_another_wait_is_waited_for_no_longer() -> None:
    """As a library does that cleans up on a connection that has gone silent."""
    ended = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    with pytest.raises(TimeoutError):
        await within(0.01, stubborn())
    assert not ended.is_set()
    async with asyncio.timeout(60):
        await ended.wait()  # it is cancelled again


async def test_work_within_its_time_answers_or_fails() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> None:
        raise ValueError("no")

    assert await within(60, answer()) == 7
    with pytest.raises(ValueError, match="no"):
        await within(60, fail())


async def test_work_ends_with_whoever_waits_for_it() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(within(60, work()))
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
