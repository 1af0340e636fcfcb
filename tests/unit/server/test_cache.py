"""What a process remembers: how looks are shared, and what goes on while the database cannot be asked."""

import asyncio

import pytest

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
