"""What a process remembers: how looks are shared, and what goes on while the database cannot be asked."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server import cache
from modelshare.server.cache import CACHE_SECONDS, NotifiedCache

pytestmark = pytest.mark.anyio


class Source:
    """A database with one number in it, and a clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.value = 1
        self.loads = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = NotifiedCache[str, int](self.load, lambda: self.now, grace=30)

    async def load(self, name: str) -> int:
        self.loads += 1
        value, error = self.value, self.error
        await self.gate.wait()
        if error is not None:
            raise error
        return value


@pytest.fixture
def source() -> Source:
    return Source()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_who_ask_at_once_share_one_look(source: Source) -> None:
    for _ in range(2):
        assert await asyncio.gather(*(source.cache.get("a") for _ in range(100))) == [1] * 100
        source.now += CACHE_SECONDS
    assert source.loads == 2


async def test_from_half_its_age_on_it_is_looked_at_anew_and_nobody_waits(source: Source) -> None:
    await source.cache.get("a")
    source.value = 2
    source.now += CACHE_SECONDS / 2
    source.gate.clear()
    assert [await source.cache.get("a") for _ in range(5)] == [1] * 5
    source.gate.set()
    await settle()
    assert await source.cache.get("a") == 2
    assert source.loads == 2


async def test_it_is_never_older_than_a_second_while_the_database_answers(source: Source) -> None:
    await source.cache.get("a")
    source.value = 2
    source.now += CACHE_SECONDS
    assert await source.cache.get("a") == 2


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError()])
async def test_what_is_known_goes_on_for_the_grace(source: Source, error: Exception) -> None:
    await source.cache.get("a")
    source.error = error
    for _ in range(30):
        source.now += 1
        assert await source.cache.get("a") == 1
        await settle()
    with pytest.raises(type(error)):
        await source.cache.get("b")
    source.now += 1
    with pytest.raises(type(error)):
        await source.cache.get("a")
    source.error, source.value = None, 2
    assert await source.cache.get("a") == 2


async def test_a_database_that_does_not_answer_is_waited_for_once(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_LOOK_SECONDS", 0.05)
    await source.cache.get("a")
    source.gate.clear()
    source.now += 5
    assert await source.cache.get("a") == 1
    loads = source.loads
    assert [await source.cache.get("a") for _ in range(100)] == [1] * 100
    assert source.loads == loads
    await source.cache.stop()


@pytest.mark.parametrize("is_dropped", [False, True])
async def test_a_slow_database_is_given_longer_where_nothing_older_may_serve(
    source: Source, monkeypatch: pytest.MonkeyPatch, *, is_dropped: bool
) -> None:
    """Whether there never was anything, or a change was heard of while it was being refreshed."""
    monkeypatch.setattr(cache, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(cache, "_PATIENCE_SECONDS", 60)
    if is_dropped:
        await source.cache.get("a")
        source.now += 5
    source.gate.clear()
    source.value = 2
    asked = asyncio.ensure_future(source.cache.get("a"))
    await settle()
    source.cache.forget(lambda name, _: name == "a")
    await asyncio.wait([asked], timeout=0.2)
    assert not asked.done()
    source.gate.set()
    assert await asked == 2


async def test_what_was_forgotten_never_comes_back(source: Source) -> None:
    for name in ("a", "b"):
        await source.cache.get(name)
    source.error = ConnectionRefusedError()
    source.now += 2
    assert await source.cache.get("a") == 1
    source.cache.forget(lambda name, _: name == "a")
    with pytest.raises(ConnectionRefusedError):
        await source.cache.get("a")
    assert await source.cache.get("b") == 1


async def test_an_error_that_the_database_answered_is_no_outage(source: Source) -> None:
    await source.cache.get("a")
    source.error = ValueError("it said so")
    source.now += 2
    with pytest.raises(ValueError, match="it said so"):
        await source.cache.get("a")


async def test_what_is_asked_for_as_of_now_is_not_from_before(source: Source) -> None:
    await source.cache.get("a")
    source.error = ConnectionRefusedError()
    source.now += 0.1
    with pytest.raises(ConnectionRefusedError):
        await source.cache.get("a", since=source.now)


async def test_whoever_joins_a_load_that_takes_long_gets_nothing_older_than_a_second(source: Source) -> None:
    source.gate.clear()
    first = asyncio.create_task(source.cache.get("a"))
    await settle()
    source.now += CACHE_SECONDS
    source.value = 2
    second = asyncio.create_task(source.cache.get("a"))
    await settle()
    source.gate.set()
    assert (await first, await second, source.loads) == (1, 2, 2)


async def test_beyond_the_limit_the_least_recently_used_goes() -> None:
    loads: list[str] = []

    async def load(name: str) -> str:
        loads.append(name)
        return name

    cache = NotifiedCache[str, str](load, lambda: 0.0, limit=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert await cache.get(name) == name
    assert loads == ["a", "b", "c", "b"]


class Interleaved:
    """Two rows of a database, whose readers, writers and notifications take turns as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rows = {"a": [(0.0, 0)], "b": [(0.0, 0)]}
        """What was written, and when; values count up."""
        self.untold: list[tuple[str, int]] = []
        self.heard = {"a": 0, "b": 0}
        """The last value that a notification told of."""
        self.reads: list[asyncio.Event] = []
        self.answers: list[asyncio.Event] = []
        self.loading: list[str] = []
        self.asked: list[tuple[asyncio.Task[int], int]] = []
        self.cache = NotifiedCache[str, int](self.load, lambda: self.now)

    async def load(self, name: str) -> int:
        assert name not in self.loading, "those who ask at once share one load"
        self.loading.append(name)
        await self._turn(self.reads)
        _, value = self.rows[name][-1]
        await self._turn(self.answers)
        self.loading.remove(name)
        return value

    def write(self, name: str) -> None:
        value = self.rows[name][-1][1] + 1
        self.rows[name].append((self.now, value))
        self.untold.append((name, value))

    def hear(self) -> None:
        if self.untold:
            told, value = self.untold.pop(0)
            self.cache.forget(lambda name, _: name == told)
            self.heard[told] = value

    def get(self, name: str) -> None:
        old = max(value for at, value in self.rows[name] if at <= self.now - CACHE_SECONDS)
        self.asked.append((asyncio.create_task(self.cache.get(name)), max(old, self.heard[name])))

    def let(self, waiting: list[asyncio.Event]) -> None:
        if waiting:
            waiting.pop(0).set()

    async def _turn(self, waiting: list[asyncio.Event]) -> None:
        turn = asyncio.Event()
        waiting.append(turn)
        await turn.wait()


STEPS = st.lists(
    st.sampled_from(
        [
            *(("write", "a"), ("write", "b"), ("hear", ""), ("get", "a"), ("get", "a"), ("get", "b")),
            *(("read", ""), ("read", ""), ("answer", ""), ("answer", ""), ("pass", 0.25), ("pass", 1.0)),
        ]
    ),
    min_size=30,
    max_size=60,
)


async def _take(world: Interleaved, what: str, argument: str | float) -> None:
    match what, argument:
        case "write", str(name):
            world.write(name)
        case "get", str(name):
            world.get(name)
        case "hear", _:
            world.hear()
        case "read", _:
            world.let(world.reads)
        case "answer", _:
            world.let(world.answers)
        case "pass", float(seconds):
            world.now += seconds
    await settle()


@given(STEPS)
def test_in_any_order_nothing_older_is_answered_than_a_second_or_a_change_heard_of(
    steps: list[tuple[str, str | float]],
) -> None:
    async def run() -> None:
        world = Interleaved()
        for what, argument in steps:
            await _take(world, what, argument)
        while world.reads or world.answers or any(not task.done() for task, _ in world.asked):
            await _take(world, "read", "")
            await _take(world, "answer", "")
        for task, oldest in world.asked:
            assert task.result() >= oldest

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_LOOK_SECONDS", "_PATIENCE_SECONDS"):
            patch.setattr(cache, name, 60)  # however loaded the machine is
        asyncio.run(run())
